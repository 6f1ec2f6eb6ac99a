"""Conversations through real gateways over a fake engine, on either database; and one that is killed midway."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import SecretStr

from forebay.store.database import Database
from forebay.store.keys import Keys
from tests.gateway.calls import AUTH, CHAT, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, Record
from tests.gateway.raw_client import Response, connect, fetch, text_of
from tests.store.databases import made, new_key
from tests.store.test_usage_gateway import ledger_process
from tests.waiting import all_ready, until

HERE = "/v1/conversations"
OTHER = {"authorization": "Bearer sk-other"}


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "api_keys": ("sk-test", "sk-other")}


async def begun(url: str, **fields: Any) -> str:
    """A new conversation."""
    answer = await fetch(url, "POST", HERE, {"model": "fake-model", **fields}, **AUTH)
    assert answer.status == 201, answer.body
    told: str = answer.json()["id"]
    return told


async def post(url: str, conversation: str, content: str = "hello", **fields: Any) -> Response:
    return await fetch(url, "POST", f"{HERE}/{conversation}/messages", {"content": content, **fields}, **AUTH)


async def said(url: str, conversation: str) -> list[tuple[str, str]]:
    """Who said what, all of it."""
    shown = await fetch(url, "GET", f"{HERE}/{conversation}", **AUTH)
    assert shown.status == 200, shown.body
    return [(message["role"], message["content"]) for message in shown.json()["messages"]]


def asked(record: Record) -> list[tuple[str, str]]:
    """What an engine was told."""
    return [(message["role"], message["content"]) for message in record.body["messages"]]


async def test_a_conversation_goes_on_from_what_was_said_whole_and_streamed(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        one = await begun(running.url, system="Be brief.", metadata={"for": "a test"})
        whole = (await post(running.url, one, "hello there", max_tokens=3, temperature=0)).json()
        assert (whole["role"], whole["content"], whole["finish_reason"]) == ("assistant", " t0 t1 t2", "length")
        assert whole["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
        assert (whole["position"], whole["trimmed"], whole["conversation_id"]) == (1, 0, one)
        streamed = await post(running.url, one, "and on", stream=True, max_tokens=4)
        assert streamed.header("content-type") == "text/event-stream; charset=utf-8"
        *events, last, done = streamed.events
        assert done.data == "[DONE]"
        for event in (*events, last):
            ChatCompletionChunk.model_validate(event.json())
        assert last.json()["conversation"] == {"id": one, "position": 3, "trimmed": 0}
        assert last.json()["usage"]["completion_tokens"] == 4
        said_before = [("user", "hello there"), ("assistant", " t0 t1 t2")]
        assert asked(engine.calls(CHAT)[1]) == [("system", "Be brief."), *said_before, ("user", "and on")]
        assert engine.calls(CHAT)[0].body["temperature"] == 0
        assert await said(running.url, one) == [*said_before, ("user", "and on"), ("assistant", text_of(events))]
        assert engine.calls("/tokenize") == []
        assert not running.gateway.pipeline.running


async def test_presets_hold_by_field_by_header_and_behind_the_model(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine(max_model_len=64) as engine, start_gateway(engine.url, **flags) as running:
        one = await begun(running.url, model="fake-model:deterministic", system="word " * 16)
        where = f"{HERE}/{one}/messages"
        await post(running.url, one, max_tokens=3)
        await post(running.url, one, max_tokens=3, preset="creative", top_p=0.5)
        body = {"content": "hello", "max_tokens": 3}
        await fetch(running.url, "POST", where, {**body, "preset": "chat"}, **AUTH, **{"x-forebay-preset": "creative"})
        by_header = {"x-forebay-preset": "code_generation"}
        plain = await begun(running.url)
        await fetch(running.url, "POST", f"{HERE}/{plain}/messages", body, **AUTH, **by_header)
        seen = [(call.body["model"], call.body["temperature"], call.body["top_p"]) for call in engine.calls(CHAT)]
        values = [(0.0, 1.0), (1.0, 0.5), (0.7, 0.95), (0.2, 0.95)]
        assert seen == [("fake-model", *pair) for pair in values]
        assert engine.calls("/tokenize"), "for which presets mean nothing"
        wrong = await fetch(running.url, "POST", HERE, {"model": "fake-model:bold"}, **AUTH)
        assert (wrong.status, error_of(wrong)["param"]) == (400, "preset")
        assert "creative" in error_of(wrong)["message"]
        nobody = await fetch(running.url, "POST", HERE, {"model": "nobody:creative"}, **AUTH)
        assert (nobody.status, error_of(nobody)["code"]) == (404, "model_not_found")


async def test_the_same_beginning_may_come_from_the_cache(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        use = {**AUTH, "x-forebay-cache": "use"}
        for stream, told in ((False, "miss"), (False, "hit"), (True, "hit")):
            body = {"content": "hello", "max_tokens": 3, "temperature": 0, "stream": stream}
            one = await begun(running.url)
            answer = await fetch(running.url, "POST", f"{HERE}/{one}/messages", body, **use)
            assert (answer.status, answer.header("x-forebay-cache")) == (200, told)
            assert await said(running.url, one) == [("user", "hello"), ("assistant", " t0 t1 t2")]
        assert len(engine.calls(CHAT)) == 1


async def test_conversations_are_listed_shown_page_by_page_and_deleted(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        ids = [await begun(running.url, ttl_s=60) for _ in range(3)]
        await post(running.url, ids[0])
        first = (await fetch(running.url, "GET", f"{HERE}?limit=2", **AUTH)).json()
        rest = (await fetch(running.url, "GET", f"{HERE}?limit=2&after={first['after']}", **AUTH)).json()
        assert {one["id"] for one in first["data"]} | {one["id"] for one in rest["data"]} == set(ids)
        assert (len(first["data"]), len(rest["data"]), rest["after"]) == (2, 1, None)
        page = (await fetch(running.url, "GET", f"{HERE}/{ids[0]}?limit=1", **AUTH)).json()
        assert (page["message_count"], page["after"], page["messages"][0]["role"]) == (2, 0, "user")
        assert page["expires_at"] - page["messages"][0]["created_at"] in (59, 60, 61)
        page = (await fetch(running.url, "GET", f"{HERE}/{ids[0]}?limit=1&after=0", **AUTH)).json()
        assert page["messages"][0]["role"] == "assistant"
        for method, path, body in (
            ("GET", f"/{ids[0]}", None),
            ("DELETE", f"/{ids[0]}", None),
            ("POST", f"/{ids[0]}/messages", {"content": "x"}),
        ):
            refused = await fetch(running.url, method, HERE + path, body, **OTHER)
            assert (refused.status, error_of(refused)["code"]) == (404, "conversation_not_found")
        assert (await fetch(running.url, "GET", HERE, **OTHER)).json()["data"] == []
        assert (await fetch(running.url, "DELETE", f"{HERE}/{ids[0]}", **AUTH)).json()["deleted"] is True
        assert (await post(running.url, ids[0])).status == 404


async def test_forty_turns_on_a_short_context_keep_the_system_message_and_the_newest(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    """Each message is 60 words, which the fake engine counts as tokens; an answer is 64."""
    async with (
        FakeEngine(max_model_len=2048, tokens=64) as engine,
        start_gateway(engine.url, **flags) as running,
    ):
        one = await begun(running.url, system="Never forget me.")
        trimmed = []
        for number in range(40):
            answer = await post(running.url, one, f"q{number} " + "word " * 59, max_tokens=64, stream=bool(number % 2))
            assert answer.status == 200, answer.body
            told = answer.events[-2].json()["conversation"] if number % 2 else answer.json()
            trimmed.append(told["trimmed"])
        for number, record in enumerate(engine.calls(CHAT)):
            told = asked(record)
            assert sum(len(content.split()) for _, content in told) + record.body["max_tokens"] <= 2048
            assert told[0] == ("system", "Never forget me.")
            assert told[-1][1].startswith(f"q{number} ")
            assert [role for role, _ in told[1:]] == ["user", "assistant"] * (len(told) // 2 - 1) + ["user"]
            assert len(told) == 2 * number + 2 - trimmed[number]
        assert trimmed == sorted(trimmed)
        assert len(set(trimmed)) < 10, "each time a good deal is cut, so that prompts begin alike"
        assert 0 < trimmed[-1] < 70
        assert len(engine.calls("/tokenize")) < 60
        assert len(await said(running.url, one)) == 80


async def test_a_message_that_does_not_fit_is_refused_and_not_stored(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine(max_model_len=256) as engine, start_gateway(engine.url, **flags) as running:
        one = await begun(running.url, system="Short.")
        await post(running.url, one, "hello")
        for stream in (False, True):
            refused = await post(running.url, one, "word " * 300, stream=stream)
            assert (refused.status, error_of(refused)["code"]) == (400, "context_length_exceeded")
        answer = await post(running.url, one, "word " * 100, max_tokens=5000)
        assert (answer.status, answer.json()["trimmed"]) == (200, 0)
        assert engine.calls(CHAT)[-1].body["max_tokens"] <= 256 - 101
        assert len(await said(running.url, one)) == 4


async def test_what_the_engine_finds_too_long_after_all_is_counted_and_asked_again(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        one = await begun(running.url)
        engine.script(Behaviour(status=400, body={"error": {"message": "This model's maximum context length is 1."}}))
        assert (await post(running.url, one)).status == 200
        assert [record.path for record in engine.requests if record.method == "POST"][-3:] == [CHAT, "/tokenize", CHAT]


async def test_twenty_posts_at_once_to_two_gateways_leave_a_consistent_history(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine(token_delay_s=0.002))
        gateways = [await stack.enter_async_context(start_gateway(engine.url, **flags)) for _ in range(2)]
        one = await begun(gateways[0].url)
        answers = await asyncio.gather(
            *(post(gateways[number % 2].url, one, f"q{number}", stream=number % 3 == 0) for number in range(20))
        )
        assert {answer.status for answer in answers} == {200}
        history = await said(gateways[0].url, one)
        assert [role for role, _ in history] == ["user", "assistant"] * 20
        assert sorted(content for role, content in history if role == "user") == sorted(f"q{n}" for n in range(20))
        for turn, record in enumerate(engine.calls(CHAT)):
            assert asked(record) == history[: 2 * turn + 1], "each knows all that was said before"
        await until(lambda: not any(gateway.gateway.turns._held for gateway in gateways if gateway.gateway.turns))


async def test_posts_wait_in_their_order_and_no_more_than_may(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, max_waiting_posts=2) as running:
        one, go_on = await begun(running.url), asyncio.Event()
        engine.script(Behaviour(faults=[Fault("head", go_on)]))
        posts = []
        for number in range(3):
            posts.append(asyncio.create_task(post(running.url, one, f"q{number}")))
            await until(lambda: running.gateway.turns is not None and holds(running, one) == len(posts))
        refused = await post(running.url, one)
        assert (refused.status, error_of(refused)["code"]) == (409, "conversation_busy")
        assert 2 <= int(refused.header("retry-after") or 0) <= 4
        go_on.set()
        await asyncio.gather(*posts)
        assert [content for role, content in await said(running.url, one) if role == "user"] == ["q0", "q1", "q2"]


def holds(running: Any, conversation: str) -> int:
    return len(running.gateway.turns._held.get(conversation, {}))


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_midway_leaves_what_was_said_until_then(
    stream: bool, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        one = await begun(running.url)
        engine.script(Behaviour(tokens=9, faults=[Fault("token", "hang", after=5)]))
        async with connect(running.url) as raw:
            await raw.request("POST", f"{HERE}/{one}/messages", {"content": "go", "stream": stream}, AUTH)
            await engine.wait_for(lambda e: e.tokens_sent == 5)
            (exchange,) = running.gateway.pipeline.running
            await until(lambda: exchange.events_out >= 5)
            await asyncio.sleep(0.05)  # the blocks are on their way to whoever reads them
        await engine.wait_for(lambda e: e.running == 0)
        await until(lambda: holds(running, one) == 0)
        shown = (await fetch(running.url, "GET", f"{HERE}/{one}", **AUTH)).json()["messages"]
        assert [(m["role"], m["content"], m["finish_reason"]) for m in shown] == [
            ("user", "go", None),
            ("assistant", " t0 t1 t2 t3 t4", "interrupted"),
        ]
        assert (await post(running.url, one, "again")).json()["position"] == 3


async def test_who_leaves_while_waiting_leaves_nothing(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        one, go_on = await begun(running.url), asyncio.Event()
        engine.script(Behaviour(faults=[Fault("head", go_on)]))
        first = asyncio.create_task(post(running.url, one, "first"))
        await engine.wait_for(lambda e: e.running == 1)
        async with connect(running.url) as raw:
            await raw.request("POST", f"{HERE}/{one}/messages", {"content": "second"}, AUTH)
            await until(lambda: holds(running, one) == 2)
        await until(lambda: holds(running, one) == 1)
        go_on.set()
        assert (await first).status == 200
        assert len(await said(running.url, one)) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_fails_leaves_nothing_and_the_post_can_be_repeated(
    stream: bool, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with (
        FakeEngine(token_delay_s=0.01) as engine,
        start_gateway(engine.url, **flags, takeover_attempts=0) as running,
    ):
        one = await begun(running.url)
        engine.default = Behaviour(status=500)
        assert (await post(running.url, one, stream=stream)).status == 503
        engine.default = Behaviour()
        engine.script(Behaviour(tokens=9, error_after=3))
        answer = await post(running.url, one, stream=stream)
        if stream:
            assert answer.events[-2].json()["error"]["code"] == "engine_error"
        else:
            assert (answer.status, error_of(answer)["code"]) == (503, "engine_error")
        assert await said(running.url, one) == []
        assert (await post(running.url, one, stream=stream)).status == 200
        assert len(await said(running.url, one)) == 2


async def test_a_conversation_stays_with_the_engine_that_knows_it(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as one, FakeEngine() as two:
        async with start_gateway(one.url, two.url, **flags, routing="prefix") as running:
            await all_ready(running)
            for _ in range(40):  # once in 10^12 all go to one engine
                conversation = await begun(running.url, system="The same for all.")
                before = len(one.calls(CHAT)), len(two.calls(CHAT))
                for number in range(2):
                    await post(running.url, conversation, f"q{number}")
                grown = sorted((len(one.calls(CHAT)) - before[0], len(two.calls(CHAT)) - before[1]))
                assert grown == [0, 2]
            assert one.calls(CHAT)
            assert two.calls(CHAT), "conversations are told apart"


async def test_what_is_wrong_is_said(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    bounds = {"max_message_bytes": 64, "max_conversation_messages": 2, "max_conversations": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, **bounds) as running:
        for body, param in (
            ({}, "model"),
            ({"model": "fake-model", "ttl_s": 1e9}, "ttl_s"),
            ({"model": "fake-model", "system": "x" * 65}, "system"),
            ({"model": "x" * 257}, "model"),
            ({"model": "fake-model", "metadata": {"a": 1}}, "metadata.a"),
            ({"model": "fake-model", "metadata": {"": "x"}}, "metadata."),
            ({"model": "fake-model", "system": "\0"}, "system"),
        ):
            refused = await fetch(running.url, "POST", HERE, body, **AUTH)
            assert (refused.status, error_of(refused)["param"]) == (400, param)
        assert (await fetch(running.url, "POST", HERE, {"model": "no"}, **AUTH)).status == 404
        one = await begun(running.url)
        refused = await fetch(running.url, "POST", HERE, {"model": "fake-model"}, **AUTH)
        assert (refused.status, error_of(refused)["code"]) == (409, "too_many_conversations")
        assert refused.header("x-should-retry") == "false"
        for fields, param in (
            ({"content": "ä" * 33}, "content"),
            ({"content": ""}, "content"),
            ({"content": "\ud800"}, "content"),
            ({"content": "x", "role": "assistant"}, "role"),
            ({"content": "x", "temperature": 3}, "temperature"),
            ({"content": "x", "temperature": "1"}, "temperature"),
            ({"content": "x", "stream": "yes"}, "stream"),
            ({"content": "x", "stop": 5}, "stop"),
            ({"content": "x", "messages": []}, "messages"),
        ):
            refused = await post(running.url, one, **fields)
            assert (refused.status, error_of(refused)["param"]) == (400, param)
        assert (await post(running.url, one)).status == 200
        refused = await post(running.url, one)
        assert (refused.status, error_of(refused)["code"]) == (409, "conversation_full")
        assert (await fetch(running.url, "GET", f"{HERE}/%00", **AUTH)).status == 400
        assert (await fetch(running.url, "GET", HERE)).status == 401


async def test_without_a_database_it_is_said_what_to_set(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        for method, path, body in (
            ("POST", "", {"model": "fake-model"}),
            ("GET", "", None),
            ("POST", "/conv_1/messages", {"content": "x"}),
        ):
            refused = await fetch(running.url, method, HERE + path, body, **AUTH)
            assert refused.status == 404
            assert "database_url" in error_of(refused)["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_limits_and_scopes_hold(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway, stream: bool
) -> None:
    grants: dict[str, dict[str, Any]] = {
        "limited": {"requests_per_minute": 1},
        "elsewhere": {"models": ("another",)},
        "watching": {"scopes": ("metrics",)},
    }
    made_keys = {name: new_key(Keys(database), **grant)[1] for name, grant in grants.items()}
    keys = {name: {"authorization": f"Bearer {key}"} for name, key in made_keys.items()}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        new = {"model": "fake-model"}
        one = (await fetch(running.url, "POST", HERE, new, **keys["limited"])).json()["id"]
        where, body = f"{HERE}/{one}/messages", {"content": "x"}
        answered = await fetch(running.url, "POST", where, {**body, "stream": stream}, **keys["limited"])
        told = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests")
        assert (answered.status, [answered.header(name) for name in told]) == (200, ["1", "0"])
        refused = await fetch(running.url, "POST", where, body, **keys["limited"])
        assert (refused.status, refused.header("x-ratelimit-limit-requests")) == (429, "1")
        refused = await fetch(running.url, "POST", where, body, **keys["elsewhere"])
        assert (refused.status, error_of(refused)["code"]) == (404, "model_not_found"), "of the same tenant"
        assert (await fetch(running.url, "POST", HERE, new, **keys["elsewhere"])).status == 404
        assert (await fetch(running.url, "GET", HERE, **keys["watching"])).status == 403


@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_stored_is_not_told_as_an_answer(
    stream: bool, postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    made(postgres).close()
    flags = {"database_url": SecretStr(postgres), "database_timeout_s": 1.0, "usage_ledger": False}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        one, go_on = await begun(running.url), asyncio.Event()
        engine.script(Behaviour(faults=[Fault("token", go_on, after=2)]))
        posting = asyncio.create_task(post(running.url, one, stream=stream))
        await engine.wait_for(lambda e: e.running == 1)
        cut_postgres(True)
        go_on.set()
        answer = await posting
        error = answer.events[-2].json()["error"] if stream else error_of(answer)
        assert error["code"] == "database_unavailable"
        cut_postgres(False)
        assert await said(running.url, one) == []


async def test_a_gateway_that_dies_midway_holds_nobody_up_for_long(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    _, key = new_key(Keys(database))
    auth = {"authorization": f"Bearer {key}"}
    lease = {"FOREBAY_CONVERSATION_LEASE_S": "2"}
    async with (
        FakeEngine() as engine,
        ledger_process(engine, tmp_path, database_url, **lease) as (first, one),
        ledger_process(engine, tmp_path, database_url, **lease) as (_, two),
    ):
        conversation = (await fetch(one, "POST", HERE, {"model": "fake-model"}, **auth)).json()["id"]
        where = f"{HERE}/{conversation}/messages"
        engine.script(Behaviour(faults=[Fault("token", "hang", after=3)]))
        async with connect(one) as raw:
            await raw.request("POST", where, {"content": "lost", "stream": True}, auth)
            await engine.wait_for(lambda e: e.running == 1 and e.tokens_sent == 3)
            waiting = asyncio.create_task(fetch(two, "POST", where, {"content": "kept"}, **auth))
            await asyncio.sleep(2.5)  # longer than the lease: it is renewed
            assert not waiting.done()
            first.send_signal(signal.SIGKILL)
            answer = await asyncio.wait_for(waiting, 30)
        assert (answer.status, answer.json()["position"]) == (200, 1)
        shown = (await fetch(two, "GET", f"{HERE}/{conversation}", **auth)).json()
        assert [message["role"] for message in shown["messages"]] == ["user", "assistant"]
        assert shown["messages"][0]["content"] == "kept"


async def test_a_post_whose_turn_comes_after_the_drains_time_is_told(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, drain_timeout_s=0.2, **flags) as running,
    ):
        one = await begun(running.url)
        engine.script(Behaviour(faults=[Fault("token", "hang", after=2)]))
        first = asyncio.create_task(post(running.url, one, stream=True))
        await engine.wait_for(lambda e: e.calls(CHAT) and e.calls(CHAT)[0].tokens_sent == 2)
        second = asyncio.create_task(post(running.url, one, stream=True))
        await until(lambda: "2 in 1" in repr(running.gateway.turns))
        await running.stop()
        assert (await first).events[-2].json()["error"]["code"] == "draining"
        refused = await second
        assert (refused.status, error_of(refused)["code"]) == (503, "draining")
        assert len(engine.calls(CHAT)) == 1
