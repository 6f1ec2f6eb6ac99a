"""What `forebay why` and /admin/v1/requests tell of requests that went this way or that."""

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.calls import AUTH, CHAT, MESSAGES, chat, chat_body
from tests.gateway.command import Done, within
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch
from tests.waiting import all_ready

ADMIN = "sk-admin"
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
KEYS: dict[str, Any] = {"admin_keys": (ADMIN,)}
SECRET = "canary: the caller's own words"
ASKED = [{"role": "user", "content": SECRET}]
REQUESTS = "/admin/v1/requests"


async def told(running: Running, response: Response | str) -> dict[str, Any]:
    """The story of an answer, or of a request id; nothing of a prompt, an answer or a key is in it."""
    name = response if isinstance(response, str) else response.header("x-request-id")
    answer = await fetch(running.url, "GET", f"{REQUESTS}/{name}", **AS_ADMIN)
    assert answer.status == 200, answer.body
    for secret in (SECRET, "canary", "sk-test", ADMIN, " t1", "hello"):
        assert secret not in answer.body.decode()
    story: dict[str, Any] = answer.json()
    times = [step["at_ms"] for step in story["steps"]]
    assert times == sorted(times)
    return story


def whats(story: dict[str, Any]) -> list[str]:
    return [step["what"] for step in story["steps"]]


def detail_of(story: dict[str, Any], what: str) -> dict[str, Any]:
    found: dict[str, Any] = next(step["detail"] for step in story["steps"] if step["what"] == what)
    return found


async def until_over(running: Running, count: int) -> None:
    while running.gateway.recorder.answered < count:
        await asyncio.sleep(0.005)


async def why(home: Path, running: Running, *words: str, **env: str) -> Done:
    return await within(home, "why", *words, "--url", running.url, **({"FOREBAY_API_KEY": ADMIN} | env))


async def test_a_quick_answer_was_held_up_by_nothing(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        story = await told(running, await chat(running.url, messages=ASKED, stream=True))
        assert story["kind"] is None
        assert whats(story) == ["attempt", "first_token", "answered"]
        assert story["verdict"].startswith(f"answered by {engine.url} in ")
        assert story["verdict"].endswith("nothing held it up")
        assert detail_of(story, "attempt") == {"replica": engine.url, "why": "only", "passed_by": {}}


async def test_a_limit_says_which_whose_and_for_how_long(start_gateway: StartGateway) -> None:
    flags = {**KEYS, "tenant_limits": {"tokens_per_minute": 1000}, "key_limits": {"requests_per_minute": 100}}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        granted = await told(running, await chat(running.url, max_tokens=900))
        assert granted["limits"]["limit_tokens"] == 1000
        assert granted["limits"]["remaining_requests"] == 99
        engine.script(Behaviour(prompt_tokens=500, tokens=400))
        await chat(running.url, max_tokens=900)
        story = await told(running, await chat(running.url, messages=ASKED, max_tokens=900))
        assert (story["status"], story["kind"]) == (429, "refused")
        facts = detail_of(story, "refused")
        assert (facts["limit"], facts["scope"], facts["of"]) == ("tokens", "tenant", 1000)
        assert 900 <= facts["used"] <= 1000
        assert 50 < facts["left_s"] < 61
        left = f"{facts['left_s']:.1f} s left"
        assert story["verdict"] == (
            f"refused: tokens a minute of tenant {story['tenant']} used up ({facts['used']} of 1000), {left}"
        )


async def test_who_waited_is_told_for_what_and_behind_whom(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1, **KEYS) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        asking = [asyncio.create_task(chat(running.url, messages=ASKED))]
        await engine.wait_for(lambda e: e.running == 1)
        asking.append(asyncio.create_task(chat(running.url, messages=ASKED)))
        while not running.gateway.pipeline.admission.queued:
            await asyncio.sleep(0.005)
        await asyncio.sleep(1.1)
        gate.set()
        _, waited = await asyncio.gather(*asking)
        story = await told(running, waited)
        assert whats(story) == ["queued", "admitted", "attempt", "answered"]
        queued = detail_of(story, "queued")
        assert (queued["ahead"], queued["running"], queued["places"], queued["of_tenant"]) == (1, 1, 1, 1)
        assert story["queued_ms"] > 1000
        assert re.search(r"waited [\d.]+ s for a place: 1 of 1 running", story["verdict"])


async def test_a_full_queue_says_how_full(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    flags = {**KEYS, "engine_concurrency": 1, "max_queue_size": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        asking = [asyncio.create_task(chat(running.url)) for _ in range(2)]
        while not running.gateway.pipeline.admission.queued:
            await asyncio.sleep(0.005)
        refused = await chat(running.url)
        assert refused.status == 503
        story = await told(running, refused)
        assert story["kind"] == "unavailable"
        assert story["verdict"] == "refused: the queue is full: 1 of 1 wait, 1 of 1 running"
        gate.set()
        await asyncio.gather(*asking)


async def test_a_second_attempt_says_what_became_of_the_first(start_gateway: StartGateway) -> None:
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url, **KEYS) as running:
        await all_ready(running)
        said = [Behaviour(status=500, body={"error": {"message": SECRET, "code": SECRET}})]
        one.default = two.default = lambda _: said.pop() if said else Behaviour()
        story = await told(running, await chat(running.url, messages=ASKED))
        assert (story["kind"], story["attempts"]) == ("taken_over", 2)
        first, second = (step["detail"]["replica"] for step in story["steps"] if step["what"] == "attempt")
        assert story["verdict"].startswith(f"{first} failed on it (its log says why) after ")
        assert story["verdict"].endswith(f"; {second} answered")


async def test_a_stream_taken_over_says_who_died_and_who_went_on(start_gateway: StartGateway) -> None:
    slow = {"token_delay_s": 0.002}
    async with FakeEngine(**slow) as one, FakeEngine(**slow) as two, start_gateway(one.url, two.url, **KEYS) as running:
        await all_ready(running)
        cuts = [Behaviour(faults=[Fault("token", "reset", after=3)])]
        one.default = two.default = lambda _: cuts.pop() if cuts else Behaviour()
        story = await told(running, await chat(running.url, stream=True, messages=ASKED))
        first, second = (step["detail"]["replica"] for step in story["steps"] if step["what"] == "attempt")
        assert whats(story) == ["attempt", "first_token", "failed", "attempt", "resumed", "answered"]
        assert detail_of(story, "resumed")["events"] > 0
        assert story["verdict"].startswith(f"{first} died after ")
        assert f"; {second} went on at event {detail_of(story, 'resumed')['events']}" in story["verdict"]


async def test_an_answer_from_the_cache_says_so(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, cache_models=("*",), **KEYS) as running:
        asked = {"temperature": 0, "messages": ASKED}
        first, second = await chat(running.url, **asked), await chat(running.url, **asked)
        assert whats(await told(running, first)) == ["cache", "attempt", "answered"]
        story = await told(running, second)
        assert (whats(story), story["cache"]) == (["cache", "answered"], "hit")
        assert story["verdict"].startswith("answered from the cache in ")
        bypass = await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, **{"x-forebay-cache": "bypass"})
        assert detail_of(await told(running, bypass), "cache") == {"state": "bypass"}


async def test_a_caller_who_leaves_is_told_of_with_how_far_it_was(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.02, tokens=1000) as engine, start_gateway(engine.url, **KEYS) as running:
        async with connect(running.url) as client:
            await client.request(
                "POST", CHAT, chat_body(stream=True, max_tokens=1000), {**AUTH, "x-request-id": "gone"}
            )
            await engine.wait_for(lambda e: e.tokens_sent > 5)
        await until_over(running, 1)
        story = await told(running, "gone")
        assert (story["kind"], whats(story)[-1]) == ("cut", "left")
        assert story["verdict"].startswith("the caller left after ")
        assert story["verdict"].endswith(f"at event {story['events']} of the stream")
        assert story["events"] > 5


async def test_a_caller_who_does_not_read_is_told_of(start_gateway: StartGateway) -> None:
    flags = {**KEYS, "write_timeout_s": 60.0}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        line = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 4000)
        engine.script(Behaviour(insert={1: line * 2000}))
        async with connect(running.url, receive_buffer_bytes=4096) as client:
            await client.request("POST", CHAT, chat_body(stream=True), {**AUTH, "x-request-id": "slow-reader"})
            while not any(x.relay is not None and x.relay._paused for x in running.gateway.pipeline.running):
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.2)
            await client.read_response("POST")
        story = await told(running, "slow-reader")
        assert story["paused_ms"] > 1000
        assert "the caller did not read for " in story["verdict"]


async def test_an_engine_that_stalls_is_told_of_with_its_time(start_gateway: StartGateway) -> None:
    flags = {**KEYS, "stall_timeout_s": 0.3, "takeover_attempts": 0, "retry_attempts": 1}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.script(Behaviour(faults=[Fault("token", "hang", after=2)]))
        story = await told(running, await chat(running.url, stream=True))
        assert (story["status"], story["kind"], story["error"]) == (200, "failed", "upstream_timeout")
        assert whats(story) == ["attempt", "first_token", "failed", "gave_up"]
        assert story["verdict"].startswith(f"failed: {engine.url} did not answer in time after ")
        assert story["verdict"].endswith(f"; the stream ended with an error at event {story['events']}")


async def test_an_unknown_model_and_an_unknown_key_are_refused_in_words(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        story = await told(running, await chat(running.url, model=SECRET))
        assert story["verdict"] == "refused: there is no such model, or not for this key (404 model_not_found)"
        nobody = await fetch(running.url, "POST", CHAT, chat_body(), authorization="Bearer sk-canary")
        story = await told(running, nobody)
        assert story["verdict"] == "refused: its key is missing, unknown or expired (401 invalid_api_key)"
        assert (story["tenant"], story["kind"]) == ("", "refused")


async def test_a_wrong_request_is_the_engines_to_refuse_and_its_words_are_not_told(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        engine.script(Behaviour(status=400, body={"error": {"message": SECRET, "param": SECRET}}))
        story = await told(running, await chat(running.url))
        assert story["verdict"] == f"refused: {engine.url} found the request wrong (400 invalid_value)"


async def test_where_no_engine_can_be_asked_each_says_why(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        await engine.stop()
        while running.gateway.replicas.ready:
            await asyncio.sleep(0.005)
        story = await told(running, await chat(running.url))
        assert story["kind"] == "unavailable"
        assert story["verdict"] == f"refused: no engine could be asked: {engine.url} not ready"


TIMINGS = {"queue_time_ms": 700.0, "time_to_first_token_ms": 20.0, "generation_time_ms": 5.0, "note": SECRET}


@pytest.mark.parametrize("wanted", [True, False])
async def test_the_engines_own_timings_are_told_and_callers_see_them_only_where_that_is_meant(
    wanted: bool, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, engine_timings=wanted, **KEYS) as running:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "\u00e9 1.50"}}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        body = {"id": "chatcmpl-1", "choices": [choice], "usage": usage, "metrics": TIMINGS}
        engine.script(Behaviour(body=body))
        whole = await chat(running.url)
        assert ("metrics" in whole.json()) is not wanted
        assert whole.json()["choices"] == [choice]
        story = await told(running, whole)
        assert story["engine_timings"]["queue_time_ms"] == 700.0
        assert set(story["engine_timings"]) == {
            *("queue_time_ms", "time_to_first_token_ms", "generation_time_ms", "mean_itl_ms", "tokens_per_second")
        }


async def test_engines_timings_in_a_stream_come_with_its_usage(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, engine_timings=True, **KEYS) as running:
        last = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 8}, "metrics": TIMINGS}
        event = b"data: %s\n\n" % json.dumps(last, separators=(",", ":")).encode()
        engine.script(Behaviour(insert={8: event}, usage=False))
        answer = await chat(running.url, stream=True, stream_options={"include_usage": True})
        assert b'"usage"' in answer.body
        assert b"metrics" not in answer.body
        assert (await told(running, answer))["engine_timings"]["queue_time_ms"] == 700.0


# The list, and who may see it


async def test_the_list_tells_the_latest_first_and_a_kind_alone_where_asked(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        for name in ("a", "b"):
            await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, **{"x-request-id": name})
        await fetch(running.url, "POST", CHAT, chat_body(model="none"), **AUTH, **{"x-request-id": "c"})
        page = (await fetch(running.url, "GET", REQUESTS, **AS_ADMIN)).json()
        assert [one["request_id"] for one in page["data"]] == ["c", "b", "a"]
        assert page["since"] > 0
        errors = (await fetch(running.url, "GET", f"{REQUESTS}?only=errors&limit=1", **AS_ADMIN)).json()["data"]
        assert [(one["request_id"], one["status"], one["error"]) for one in errors] == [("c", 404, "model_not_found")]
        tenant = page["data"][0]["tenant"]
        for name, count in ((tenant, 3), ("another", 0)):
            found = (await fetch(running.url, "GET", f"{REQUESTS}?tenant={name}", **AS_ADMIN)).json()["data"]
            assert len(found) == count
        assert (await fetch(running.url, "GET", f"{REQUESTS}?only=nothing", **AS_ADMIN)).status == 400


async def test_stories_are_for_administrators_alone(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        name = (await chat(running.url)).header("x-request-id")
        for path in (REQUESTS, f"{REQUESTS}/{name}"):
            assert (await fetch(running.url, "GET", path, **AUTH)).status == 403
            assert (await fetch(running.url, "GET", path)).status == 401


async def test_a_request_is_found_by_its_answers_its_engines_and_its_traces_id(start_gateway: StartGateway) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        headers = {"x-request-id": "mine", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, **headers)
        engine_id = engine.calls(CHAT)[-1].headers["x-request-id"]
        for name in ("mine", engine_id, f"chatcmpl-{engine_id}", f"{engine_id}-2", trace):
            assert (await told(running, name))["request_id"] == "mine"


async def test_of_two_requests_with_one_id_the_latest_is_told_and_the_other_named(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        for model in ("none", "fake-model"):
            await fetch(running.url, "POST", CHAT, chat_body(model=model), **AUTH, **{"x-request-id": "twice"})
        story = await told(running, "twice")
        assert (story["status"], [one["status"] for one in story["also"]]) == (200, [404])
        done = await why(tmp_path, running, "twice")
        assert "This is the latest of 2 requests with this id" in done.out


async def test_a_request_under_way_is_told_as_far_as_it_has_come(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        engine.script(Behaviour(faults=[Fault("token", gate, after=2)]))
        asking = asyncio.create_task(
            fetch(running.url, "POST", CHAT, chat_body(stream=True), **AUTH, **{"x-request-id": "now"})
        )
        while not any(exchange.events_out for exchange in running.gateway.pipeline.running):
            await asyncio.sleep(0.005)
        story = await told(running, "now")
        assert whats(story) == ["attempt", "first_token", "running"]
        assert (story["status"], story["outcome"]) == (0, "running")
        assert story["verdict"].startswith("under way for ")
        gate.set()
        await asking
        assert whats(await told(running, "now")) == ["attempt", "first_token", "answered"]


async def test_without_a_ring_nothing_is_kept(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, recent_requests=0, **KEYS) as running:
        name = (await chat(running.url)).header("x-request-id")
        for path in (REQUESTS, f"{REQUESTS}/{name}"):
            answer = await fetch(running.url, "GET", path, **AS_ADMIN)
            assert answer.status == 404
            assert "recent_requests" in answer.json()["error"]["message"]


# The command


async def test_the_command_prints_the_verdict_first_and_then_a_line_a_step(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        name = (await chat(running.url, stream=True)).header("x-request-id") or ""
        done = await why(tmp_path, running, name)
        assert (done.status, done.err) == (0, "")
        lines = done.out.splitlines()
        assert lines[0].startswith(f"answered by {engine.url} in ")
        assert any(line.startswith(f"request {name}") for line in lines)
        rows = lines[lines.index("") + 1 :]
        rows = rows[rows.index("") + 1 :]
        assert rows[0].split() == ["at", "for", "step", "what", "was", "decided"]
        named = [next(word for word in row.split() if word.isalpha() and word not in ("ms", "s")) for row in rows[1:]]
        assert named == ["came", "attempt", "first", "answered"]
        assert "█" in "".join(rows)


async def test_the_command_prints_json_where_asked(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        name = (await chat(running.url)).header("x-request-id") or ""
        done = await why(tmp_path, running, name, "--json")
        assert json.loads(done.out) == await told(running, name)


async def test_the_command_ends_with_1_where_the_request_is_not_known_and_says_how_far_it_remembers(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, recent_requests=2, **KEYS) as running:
        done = await why(tmp_path, running, "unknown")
        assert done.status == 1
        assert "none has ended since this gateway was started" in done.err
        for _ in range(3):
            await chat(running.url)
        done = await why(tmp_path, running, "unknown")
        assert done.status == 1
        assert "those that ended before 20" in done.err
        assert "are forgotten" in done.err
        assert (await why(tmp_path, running, "a/b")).status == 2


async def test_the_command_takes_the_gateways_own_admin_key_on_this_machine(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **KEYS) as running:
        name = (await chat(running.url)).header("x-request-id") or ""
        assert (await why(tmp_path, running, name, FOREBAY_API_KEY="", FOREBAY_ADMIN_KEYS=ADMIN)).status == 0
        refused = await why(tmp_path, running, name, FOREBAY_API_KEY="sk-test")
        assert refused.status == 1
        assert "use a key that may do this" in refused.err


async def test_the_command_says_where_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = await within(tmp_path, "why", "x", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert done.status == 1
    assert "is a gateway running there?" in done.err


async def test_nothing_that_a_caller_or_an_engine_wrote_is_kept(start_gateway: StartGateway) -> None:
    """A canary in every place that either may write into: no story has it."""
    async with FakeEngine() as one, FakeEngine() as two, start_gateway(one.url, two.url, **KEYS) as running:
        await all_ready(running)
        bad = [
            Behaviour(status=400, body={"error": {"message": SECRET, "type": SECRET, "param": SECRET, "code": 400}}),
            Behaviour(status=500, body=SECRET),
            Behaviour(raw=SECRET.encode()),
            Behaviour(insert={2: b'data: {"error":{"message":"%s","code":500}}\n\n' % SECRET.encode()}),
            Behaviour(content_type=SECRET),
            Behaviour(headers=[("x-canary", SECRET), ("x-request-id", SECRET)]),
            Behaviour(body={"id": SECRET, "choices": [], "metrics": {"queue_time_ms": SECRET}}),
        ]
        fields: list[dict[str, Any]] = [
            {"messages": ASKED},
            {"model": SECRET},
            {"temperature": SECRET},
            {"user": SECRET, "messages": ASKED, "stream": True},
            {"messages": ASKED, "tools": [{"type": "function", "function": {"name": SECRET}}]},
        ]
        for behaviour in [Behaviour(), *bad]:
            for extra in fields:
                one.default = two.default = lambda _, now=behaviour: now
                await chat(running.url, **{"messages": MESSAGES, **extra})
        headers = {"x-session-id": SECRET, "x-forebay-preset": SECRET, "user-agent": SECRET, "x-request-id": SECRET}
        await fetch(running.url, "POST", CHAT, chat_body(), **AUTH, **headers)
        await fetch(running.url, "POST", CHAT, chat_body(), authorization=f"Bearer {SECRET}")
        page = await fetch(running.url, "GET", f"{REQUESTS}?limit=1000", **AS_ADMIN)
        stories = [await told(running, one["request_id"]) for one in page.json()["data"]]
        assert len(stories) > 40
        assert "canary" not in page.body.decode()
        assert "canary" not in str(list(running.gateway.recorder.recent or ()))
