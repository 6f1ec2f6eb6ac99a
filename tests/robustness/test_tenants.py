"""E1, E3, E5, E8: tenants that compete share by weight, and none sees a byte of another's or gets ahead by asking."""

import asyncio
import json
import random
from time import monotonic, time
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, Record
from tests.gateway.raw_client import connect, fetch, text_of
from tests.gateway.test_queue import flood, give, queued
from tests.waiting import until

SECRET = "0123456789abcdef0123456789abcdef"


def keys(count: int) -> tuple[str, ...]:
    return tuple(f"sk-tenant-{number}" for number in range(count))


@pytest.mark.parametrize(("order", "fair"), [("fair", True), ("fifo", False)])
async def test_two_backlogged_keys_are_served_as_many_tokens_whatever_they_ask_for(
    start_gateway: StartGateway, order: str, fair: bool
) -> None:
    """E1, with the control that has to fail: first come, first served gives the larger requests more."""
    served: dict[str, int] = {}
    async with (
        FakeEngine(slots=4, token_delay_s=0.002, tokens=64) as engine,
        start_gateway(
            engine.url, engine_concurrency=4, api_keys=keys(2), input_token_weight=0, queue_order=order
        ) as running,
    ):
        until = monotonic() + 2.0
        large, small = keys(2)
        await asyncio.gather(
            flood(running.url, large, 16, served, until, 8), flood(running.url, small, 16, served, until, 2)
        )
    share = served[large] / sum(served.values())
    assert (share == pytest.approx(0.5, rel=0.1)) is fair, served


async def test_sixteen_greedy_tenants_share_by_weight_and_none_starves(start_gateway: StartGateway) -> None:
    """E3."""
    served: dict[str, int] = {}
    weights = {key: float(2 ** (number % 3)) for number, key in enumerate(keys(16))}
    async with (
        FakeEngine(slots=8, token_delay_s=0.002, tokens=64) as engine,
        start_gateway(
            engine.url, engine_concurrency=8, api_keys=keys(16), input_token_weight=0, max_queue_size=256
        ) as running,
    ):
        for key, weight in weights.items():
            give(running, key, weight=weight)
        until = monotonic() + 2.5
        await asyncio.gather(*(flood(running.url, key, 6, served, until, 3) for key in weights))
    assert set(served) == set(weights), "everybody was served"
    each = sum(served.values()) / sum(weights.values())
    for weight in (1.0, 2.0, 4.0):
        group = [served[key] for key in weights if weights[key] == weight]
        # Within a fifth: who comes first finds free places, which counts in so short a time.
        assert sum(group) / len(group) == pytest.approx(weight * each, rel=0.2), (weight, served)


def salted(record: Record) -> Behaviour:
    """An answer that names whose it is: what the gateway told of the tenant."""
    whose = record.body["cache_salt"]
    if record.body.get("stream"):
        chunk = {"choices": [{"index": 0, "delta": {"content": f" <{whose}>"}}]}
        return Behaviour(tokens=3, token_delay_s=0.001, insert={1: b"data: %s\n\n" % json.dumps(chunk).encode()})
    message = {"role": "assistant", "content": f"<{whose}>"}
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake-model", "choices": choices}
    return Behaviour(body={**body, "usage": usage}, head_delay_s=0.001)


async def test_of_thousands_of_answers_none_has_a_byte_of_another_tenants(start_gateway: StartGateway) -> None:
    """E5: twenty tenants ask the same few questions, answers are cached and shared in flight, and a tenth leave early.

    Every answer names its tenant by its salt; whoever finds another's has read what was not meant for it.
    """
    own: dict[str, set[str]] = {key: set() for key in keys(20)}
    seed = random.Random(5)
    plan = [(seed.choice(keys(20)), seed.random() < 0.4, seed.random() < 0.1, seed.randrange(4)) for _ in range(1000)]

    async def work(running: Running) -> None:
        while plan:
            key, stream, leaves, question = plan.pop()
            async with connect(running.url) as raw:
                messages = [{"role": "user", "content": f"Question {question}?"}]
                body = chat_body(messages=messages, temperature=0, max_tokens=3, stream=stream)
                await raw.request("POST", CHAT, body, {"authorization": f"Bearer {key}"})
                if leaves:
                    await asyncio.sleep(0.001 * question)
                    continue
                answer = await raw.read_response("POST")
            assert answer.status == 200
            text = text_of(answer.events) if stream else answer.json()["choices"][0]["message"]["content"]
            own[key].add(text[text.index("<") : text.index(">") + 1])

    flags: dict[str, Any] = {"cache_models": ("*",), "engine_concurrency": 16, "max_queue_size": 256}
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=keys(20), **flags) as running:
        engine.on(CHAT, salted)
        await asyncio.gather(*(work(running) for _ in range(24)))
        assert [len(salts) for salts in own.values()] == [1] * 20
        assert len(set().union(*own.values())) == 20
        hits = sum(value for name, value in running.figures().items() if "cache" in name and '"hit"' in name)
        assert hits > 100, "the cache was in it"
        await until(lambda: not running.gateway.pipeline.running)  # of those who left last


ASKING_FOR_MORE: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"service_tier": "priority"}, {}),
    ({"user": "admin", "metadata": {"priority": "99", "tenant": "other"}}, {}),
    ({}, {"x-vllm-priority": "-99", "priority": "u=0", "x-priority": "99"}),
    ({}, {"x-tenant": "other", "x-forwarded-for": "10.0.0.1", "openai-organization": "other", "openai-project": "x"}),
]


@pytest.mark.parametrize(("fields", "headers"), ASKING_FOR_MORE)
async def test_nobody_gets_ahead_in_line_by_asking(
    start_gateway: StartGateway, fields: dict[str, Any], headers: dict[str, str]
) -> None:
    """E8."""
    order: list[str] = []
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1, api_keys=keys(2)) as running:
        first, second = keys(2)

        async def ask(key: str, body: dict[str, Any], more: dict[str, str]) -> None:
            answer = await fetch(running.url, "POST", CHAT, body, authorization=f"Bearer {key}", **more)
            assert answer.status == 200
            order.append(body["messages"][0]["content"])

        def said(text: str) -> dict[str, Any]:
            return chat_body(messages=[{"role": "user", "content": text}], max_tokens=1)

        gate = asyncio.Event()
        engine.script(Behaviour(tokens=1, faults=[Fault("head", gate)]))
        tasks = [asyncio.create_task(ask(first, said("under way"), {}))]
        await engine.wait_for(lambda e: e.running == 1)
        for number, (text, body, more) in enumerate((("waits", {}, {}), ("asks for more", fields, headers)), start=1):
            tasks.append(asyncio.create_task(ask(second, {**said(text), **body}, more)))
            await queued(running, number)
        gate.set()
        await asyncio.gather(*tasks)
    assert order == ["under way", "waits", "asks for more"]


async def test_many_keys_of_one_tenant_have_one_tenants_limit_together(start_gateway: StartGateway) -> None:
    """E8: the limit of the tenant stands above those of its keys."""

    def token(sub: str, tenant: str) -> str:
        return jwt.encode({"sub": sub, "tenant": tenant, "exp": time() + 60}, SECRET, "HS256")

    flags: dict[str, Any] = {"secret_key": SecretStr(SECRET), "tenant_limits": {"requests_per_minute": 5}}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        statuses = []
        for number in range(12):
            key = token(f"key-{number}", "acme")
            answer = await fetch(running.url, "POST", CHAT, chat_body(max_tokens=1), authorization=f"Bearer {key}")
            statuses.append(answer.status)
        assert statuses == [200] * 5 + [429] * 7
        assert "tenant" in error_of(answer)["message"]
        other = await fetch(
            running.url, "POST", CHAT, chat_body(max_tokens=1), authorization=f"Bearer {token('key-0', 'initech')}"
        )
        assert other.status == 200
