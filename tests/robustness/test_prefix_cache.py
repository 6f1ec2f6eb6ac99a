"""E6: what an engine keeps of one tenant's prompts answers for no other tenant.

The engine of these tests remembers prompts as vLLM does: by what they begin with, and by the salt that they came with.
Whether it found one is what an attacker reads from the time to the first token; here it is read directly.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.gateway.tuning import Tuning
from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, Record
from tests.gateway.raw_client import Response, fetch

ALICE, BOB = "sk-alice", "sk-bob"
TWO_TENANTS: dict[str, Any] = {"api_keys": (ALICE, BOB)}
SECRET_PROMPT = "The merger will be announced on Tuesday."
PROMPTS = {
    CHAT: {"messages": [{"role": "user", "content": SECRET_PROMPT}]},
    "/v1/completions": {"prompt": SECRET_PROMPT},
    "/v1/responses": {"input": SECRET_PROMPT},
    "/v1/messages": {"messages": [{"role": "user", "content": SECRET_PROMPT}]},
    "/v1/embeddings": {"input": SECRET_PROMPT},
}


@dataclass
class PrefixCache:
    """What an engine has computed; `hits` tells of each request whether its prompt was found."""

    seen: set[tuple[str | None, str, str]] = field(default_factory=set)
    hits: list[bool] = field(default_factory=list)
    salts: list[str | None] = field(default_factory=list)

    def __call__(self, record: Record) -> Behaviour:
        body = record.body
        prompt = json.dumps([body.get(name) for name in ("messages", "prompt", "input")])
        salt = body.get("cache_salt")
        self.salts.append(salt)
        self.hits.append((salt, record.path, prompt) in self.seen)
        self.seen.add((salt, record.path, prompt))
        return Behaviour(tokens=2)


async def ask(running: Running, key: str, path: str = CHAT, **fields: Any) -> Response:
    body = {"model": "fake-model", "max_tokens": 2, **PROMPTS[path], **fields}
    answer = await fetch(running.url, "POST", path, body, authorization=f"Bearer {key}")
    assert answer.status == 200
    return answer


@pytest.mark.parametrize("path", PROMPTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_tried_by_another_tenant_is_never_found(
    start_gateway: StartGateway, path: str, stream: bool
) -> None:
    cache = PrefixCache()
    fields = {"stream": stream} if path != "/v1/embeddings" else {}
    async with FakeEngine() as engine, start_gateway(engine.url, **TWO_TENANTS) as running:
        engine.default = cache
        for key in (ALICE, BOB, ALICE, BOB):
            await ask(running, key, path, **fields)
        assert cache.hits == [False, False, True, True], "each finds its own prompt again, and only that"


async def test_without_salts_the_same_prompt_is_found_so_the_test_before_can_fail(start_gateway: StartGateway) -> None:
    cache = PrefixCache()
    flags = {**TWO_TENANTS, "tenant_cache_salt": False}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.default = cache
        for key in (ALICE, BOB):
            await ask(running, key)
        assert cache.hits == [False, True]
        assert cache.salts == [None, None]


@pytest.mark.parametrize("flags", [{}, {"api_keys": ()}, {"api_keys": ("sk-test", "sk-test")}])
async def test_where_there_is_one_tenant_bodies_go_on_byte_for_byte(
    start_gateway: StartGateway, flags: dict[str, Any]
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        body = b'{ "model" : "fake-model", "max_tokens": 2, "messages": [{"role":"user","content":"hi"}] }'
        assert (await fetch(running.url, "POST", CHAT, body, authorization="Bearer sk-test")).status == 200
        assert engine.calls(CHAT)[-1].raw_body == body


@pytest.mark.parametrize("secret", [None, SecretStr("s" * 32)])
async def test_two_gateways_give_a_tenant_one_salt_so_that_its_prompts_are_computed_once(
    start_gateway: StartGateway, secret: SecretStr | None
) -> None:
    cache = PrefixCache()
    async with FakeEngine() as engine:
        engine.default = cache
        for _ in range(2):
            async with start_gateway(engine.url, **TWO_TENANTS, secret_key=secret) as running:
                await ask(running, ALICE)
        assert cache.hits == [False, True]


@pytest.mark.parametrize("change", ["by ids", "by text"])
async def test_a_stream_that_another_engine_goes_on_with_keeps_its_tenants_salt(
    start_gateway: StartGateway, change: str
) -> None:
    salts: list[str | None] = []

    def cut_first(record: Record) -> Behaviour:
        salts.append(record.body.get("cache_salt"))
        return Behaviour(faults=[Fault("token", "reset", 2)] if len(salts) == 1 else ())

    stop: dict[str, Any] = {"stop": ["never said"]} if change == "by text" else {}
    async with FakeEngine() as one, FakeEngine() as two:
        one.default = two.default = cut_first
        async with start_gateway(one.url, two.url, **TWO_TENANTS) as running:
            await ask(running, ALICE, stream=True, max_tokens=6, **stop)
    assert len(salts) == 2
    assert salts[0] == salts[1] is not None


@pytest.mark.parametrize("spell", [lambda name: name, lambda name: name.replace("_", "\\u005f")])
async def test_a_caller_cannot_name_a_salt_to_get_into_anothers_cache(
    start_gateway: StartGateway, spell: Callable[[str], str]
) -> None:
    """C13 as well: refused by name, and no engine sees it."""
    async with FakeEngine() as engine, start_gateway(engine.url, **TWO_TENANTS) as running:
        body = json.dumps(chat_body())[:-1] + f', "{spell("cache_salt")}": "theirs"}}'
        answer = await fetch(running.url, "POST", CHAT, body.encode(), authorization=f"Bearer {BOB}")
        assert answer.status == 400
        assert error_of(answer)["param"] == "cache_salt"
        assert engine.calls(CHAT) == []


async def test_salts_are_turned_off_and_on_without_a_restart_and_come_with_the_second_tenant(
    start_gateway: StartGateway,
) -> None:
    cache = PrefixCache()
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=(ALICE,)) as running:
        engine.default = cache
        await ask(running, ALICE)
        settings = running.gateway.settings
        for changes in (
            {"api_keys": (SecretStr(ALICE), SecretStr(BOB))},
            {"api_keys": (SecretStr(ALICE), SecretStr(BOB)), "tenant_cache_salt": False},
        ):
            changed = settings.model_copy(update=changes)
            running.gateway.change(changed, Tuning.of(changed, changed.upstream))
            await ask(running, ALICE)
        assert [salt is not None for salt in cache.salts] == [False, True, False]
