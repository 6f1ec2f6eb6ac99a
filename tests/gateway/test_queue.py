"""Waiting for one's turn: who is served when, who is refused, and that nobody's place is lost."""

import asyncio
import json
from math import inf
from time import monotonic

import pytest

from forebay.policy.auth import Principal
from tests.gateway.calls import AUTH, CHAT, chat, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch, text_of, token_numbers

KEYS = ("sk-test", "sk-mouse", "sk-third")


async def chat_as(url: str, key: str, headers: dict[str, str] | None = None, **fields: object) -> Response:
    return await fetch(url, "POST", CHAT, chat_body(**fields), authorization=f"Bearer {key}", **(headers or {}))


async def queued(running: Running, number: int) -> None:
    """Return once so many wait."""
    async with asyncio.timeout(20):
        while running.gateway.pipeline.admission.queued != number:
            await asyncio.sleep(0.001)


def give(running: Running, key: str, *, priority: int = 0, weight: float = 1.0) -> None:
    """Let a key have a priority and a weight."""
    known = running.gateway.pipeline.auth._fixed
    for digest, (_, principal) in list(known.items()):
        if principal == running.gateway.pipeline.auth.authenticate(b"Bearer " + key.encode(), None, 0.0):
            changed = Principal(principal.tenant, principal.key_id, priority=priority, weight=weight)
            known[digest] = (digest, changed)


def nothing_is_held(running: Running) -> bool:
    admission = running.gateway.pipeline.admission
    return (admission.under_way, admission.queued) == (0, 0) and not any(x.running for x in admission.lines.values())


async def test_one_more_than_the_engine_has_at_once_waits_and_is_answered(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        first = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        second = asyncio.create_task(chat(running.url, stream=True))
        await queued(running, 1)
        health = (await fetch(running.url, "GET", "/healthz", **AUTH)).json()
        assert health["queues"] == [{"model": "fake-model", "running": 1, "limit": 1, "queued": 1}]
        assert running.figures()['forebay_queue_requests{model="fake-model"}'] == 1
        assert len(engine.calls(CHAT)) == 1
        gate.set()
        assert (await first).status == 200
        assert token_numbers(text_of((await second).events)) == list(range(8))
        assert nothing_is_held(running)
        waits = 'forebay_queue_wait_seconds_count{endpoint="chat_completions",model="fake-model"}'
        assert running.figures()[waits] == 1
        await running.stop()
        assert [line.get("queued_ms", 0) > 0 for line in running.log_lines() if line["message"] == "request"] == [
            False,
            True,
        ]


async def test_long_prompts_wait_while_an_engine_has_enough_to_read_and_another_tenants_short_one_does_not(
    start_gateway: StartGateway,
) -> None:
    gate, long = asyncio.Event(), [{"role": "user", "content": "word " * 1200}]
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, api_keys=("sk-greedy", "sk-quiet"), prefill_target_s=60) as running,
    ):
        engine.default = lambda record: Behaviour(faults=[Fault("head", gate)] if len(record.raw_body) > 4000 else [])
        greedy = [asyncio.create_task(chat_as(running.url, "sk-greedy", stream=True, messages=long)) for _ in range(4)]
        await queued(running, 3)
        figures = running.figures()
        assert figures['forebay_prefill_limit_tokens{model="fake-model"}'] == 2048
        assert 1400 < figures['forebay_prefill_tokens{model="fake-model"}'] < 2048
        assert (await chat_as(running.url, "sk-quiet", stream=True)).status == 200
        assert len(engine.calls(CHAT)) == 2, "one long one, and the short one"
        gate.set()
        assert [one.status for one in await asyncio.gather(*greedy)] == [200] * 4
        assert nothing_is_held(running)
        assert running.figures()['forebay_prefill_tokens{model="fake-model"}'] == 0


async def test_a_full_queue_is_refused_at_once_and_says_when_to_come_back(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, engine_concurrency=1, max_queue_size=2) as running,
    ):
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        accepted = [asyncio.create_task(chat(running.url)) for _ in range(3)]
        await queued(running, 2)
        began = monotonic()
        refused = await chat(running.url)
        assert monotonic() - began < 10
        assert (refused.status, error_of(refused)["code"]) == (503, "server_is_overloaded")
        assert 1 <= int(refused.header("retry-after") or 0) <= 30
        assert refused.header("connection") is None, "the connection may be used again"
        gate.set()
        assert [one.status for one in await asyncio.gather(*accepted)] == [200] * 3
        assert running.figures()['forebay_queue_refusals_total{model="fake-model",reason="full"}'] == 1
        assert len(engine.calls(CHAT)) == 3


@pytest.mark.parametrize("header", [{"x-request-timeout-ms": "300"}, {"x-stainless-read-timeout": "1"}, {}])
async def test_a_deadline_that_passes_in_the_queue_never_reaches_the_engine(
    start_gateway: StartGateway, header: dict[str, str]
) -> None:
    flags = {} if header else {"queue_timeout_s": 0.3}
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1, **flags) as running:
        engine.script(Behaviour(faults=[Fault("head", "hang")]))
        stuck = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        late = await chat_as(running.url, "sk-test", header)
        assert (late.status, error_of(late)["code"]) == (503, "server_is_overloaded")
        assert "within the time" in error_of(late)["message"]
        assert len(engine.calls(CHAT)) == 1
        stuck.cancel()
        await engine.wait_for(lambda e: e.running == 0)


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon", "9" * 10, "NaN", "1e3"])
async def test_a_deadline_that_is_none_is_refused(start_gateway: StartGateway, value: str) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        wrong = await chat_as(running.url, "sk-test", {"x-request-timeout-ms": value})
        assert (wrong.status, error_of(wrong)["param"]) == (400, "x-request-timeout-ms")
        odd = await chat_as(running.url, "sk-test", {"x-stainless-read-timeout": value})
        assert odd.status == 200, "what a client library says of itself is no reason to refuse"


async def test_a_client_that_leaves_the_queue_frees_its_place_at_once(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1, max_queue_size=1) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        first = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        async with connect(running.url) as leaver:
            await leaver.request("POST", CHAT, chat_body(), AUTH)
            await queued(running, 1)
            assert (await chat(running.url)).status == 503
        await queued(running, 0)
        second = asyncio.create_task(chat(running.url))
        await queued(running, 1)
        gate.set()
        assert [(await first).status, (await second).status] == [200, 200]
        assert len(engine.calls(CHAT)) == 2
        await running.stop()
        assert sum(line.get("status") == 499 for line in running.log_lines()) == 1


async def test_a_storm_of_clients_that_come_and_leave_leaves_nothing_behind(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine(slots=4, token_delay_s=0.002) as engine,
        start_gateway(engine.url, engine_concurrency=4, max_queue_size=64, api_keys=KEYS) as running,
    ):

        async def client(number: int) -> None:
            for turn in range(4):
                async with connect(running.url) as raw:
                    headers = {"authorization": f"Bearer {KEYS[number % 3]}"}
                    await raw.request("POST", CHAT, chat_body(stream=turn % 2 == 0), headers)
                    if (number + turn) % 3:
                        await asyncio.sleep(0.0005 * (number % 17))  # then it hangs up, wherever its request is
                    else:
                        assert (await raw.read_response("POST")).status in (200, 503)

        await asyncio.gather(*(client(number) for number in range(100)))
        async with asyncio.timeout(20):
            while not nothing_is_held(running):
                await asyncio.sleep(0.005)
        assert (await chat(running.url)).status == 200


async def test_a_drain_serves_those_who_wait(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url, engine_concurrency=1) as running:
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        asked = [asyncio.create_task(chat(running.url)) for _ in range(4)]
        await queued(running, 3)
        running.server.stop()
        gate.set()
        assert [one.status for one in await asyncio.gather(*asked)] == [200] * 4
        await running.stop()


async def test_those_who_still_wait_when_the_drain_is_over_are_told_so(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, engine_concurrency=1, drain_timeout_s=0.3) as running,
    ):
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        asked = [asyncio.create_task(chat(running.url)) for _ in range(4)]
        await queued(running, 3)
        await running.stop()
        answers = await asyncio.gather(*asked)
        assert [(one.status, error_of(one)["code"]) for one in answers] == [(503, "draining")] * 4
        assert len(engine.calls(CHAT)) == 1
        assert nothing_is_held(running)


async def test_the_limit_follows_the_replicas(start_gateway: StartGateway) -> None:
    """One engine dies: what waits is served by the other, one at a time."""
    async with FakeEngine() as one, FakeEngine() as two:
        one.default = two.default = Behaviour(faults=[Fault("head", "hang")])
        async with start_gateway(one.url, two.url, engine_concurrency=1, takeover_attempts=0) as running:
            async with asyncio.timeout(20):
                while sum(replica.ready for replica in running.gateway.replicas) < 2:
                    await asyncio.sleep(0.005)
            asked = [asyncio.create_task(chat(running.url)) for _ in range(3)]
            await one.wait_for(lambda e: e.running == 1)
            await two.wait_for(lambda e: e.running == 1)
            await queued(running, 1)
            assert running.figures()['forebay_queue_limit{model="fake-model"}'] == 2
            one.default = two.default = Behaviour()
            await one.stop()
            async with asyncio.timeout(20):
                while running.figures()['forebay_queue_limit{model="fake-model"}'] != 1:
                    await asyncio.sleep(0.01)
            await two.stop()
            await asyncio.wait(asked)


async def test_priority_goes_first_and_is_told_to_the_engine_never_by_the_caller(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, engine_concurrency=1, api_keys=KEYS, forward_priority=True) as running,
    ):
        give(running, "sk-mouse", priority=7)
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        asked = []
        for key in ("sk-test", "sk-test", "sk-mouse"):
            asked.append(asyncio.create_task(chat_as(running.url, key, {"x-vllm-priority": "-99"})))
            await queued(running, len(asked) - 1)
        gate.set()
        await asyncio.gather(*asked)
        told = [record.headers["x-vllm-priority"] for record in engine.calls(CHAT)]
        assert told == ["0", "-7", "0"]


async def test_without_that_setting_no_priority_reaches_the_engine(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        await chat_as(running.url, "sk-test", {"x-vllm-priority": "-99"})
        assert "x-vllm-priority" not in engine.calls(CHAT)[0].headers


# Tenants that compete


async def flood(url: str, key: str, streams: int, served: dict[str, int], until: float, tokens: int) -> None:
    """So many streams, each followed by the next at once; counts the tokens that came."""

    async def stream() -> None:
        async with connect(url) as raw:
            while monotonic() < until:
                body = chat_body(stream=True, max_tokens=tokens)
                await raw.request("POST", CHAT, body, {"authorization": f"Bearer {key}"})
                answer = await raw.read_response("POST")
                if answer.status == 200 and monotonic() < until:
                    served[key] = served.get(key, 0) + tokens

    await asyncio.gather(*(stream() for _ in range(streams)))


@pytest.mark.parametrize(("order", "fair"), [("fair", True), ("fifo", False)])
async def test_a_mouse_is_served_among_elephants_and_first_come_first_served_it_is_not(
    start_gateway: StartGateway, order: str, fair: bool
) -> None:
    """One tenant keeps 32 streams going, another sends one request at a time; 4 run at once."""
    waits: list[float] = []
    async with (
        FakeEngine(slots=4, token_delay_s=0.005, tokens=64) as engine,
        start_gateway(engine.url, engine_concurrency=4, api_keys=KEYS, queue_order=order) as running,
    ):
        elephant = asyncio.create_task(flood(running.url, "sk-test", 32, {}, inf, 8))
        await queued(running, 28)
        until = monotonic() + 1.5
        while monotonic() < until:
            began = monotonic()
            assert (await chat_as(running.url, "sk-mouse", max_tokens=1)).status == 200
            waits.append(monotonic() - began)
        elephant.cancel()
        await asyncio.wait([elephant])
    waits.sort()
    assert (waits[int(len(waits) * 0.95)] < 0.15) is fair, waits


async def test_backlogged_tenants_share_tokens_by_weight_whatever_their_requests_sizes(
    start_gateway: StartGateway,
) -> None:
    served: dict[str, int] = {}
    async with (
        FakeEngine(slots=4, token_delay_s=0.002, tokens=64) as engine,
        start_gateway(engine.url, engine_concurrency=4, api_keys=KEYS, input_token_weight=0) as running,
    ):
        for key, weight in zip(KEYS, (1.0, 2.0, 4.0), strict=True):
            give(running, key, weight=weight)
        until = monotonic() + 3.0
        sizes = zip(KEYS, (8, 2, 4), strict=True)
        await asyncio.gather(*(flood(running.url, key, 16, served, until, tokens) for key, tokens in sizes))
    total = sum(served.values())
    shares = [served[key] / total for key in KEYS]
    assert shares == [pytest.approx(want / 7, rel=0.1) for want in (1, 2, 4)], json.dumps(served)


async def test_an_answer_is_charged_as_it_comes_while_others_wait(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, engine_concurrency=1, api_keys=KEYS, input_token_weight=0) as running,
    ):
        engine.script(Behaviour(tokens=6, faults=[Fault("token", gate, after=4)]))
        long = asyncio.create_task(chat(running.url, stream=True))
        await engine.wait_for(lambda e: e.running == 1)
        waiting = asyncio.create_task(chat_as(running.url, "sk-mouse"))
        await queued(running, 1)
        (line,) = running.gateway.pipeline.admission.lines.values()
        tenant = next(one for one in line.queue._tenants.values() if not one.lanes)
        async with asyncio.timeout(20):
            while not tenant.counter:
                await asyncio.sleep(0.01)
        assert tenant.counter >= 2 * 4, "an answer's token counts twice"
        gate.set()
        await asyncio.gather(long, waiting)
        assert tenant.counter == 2 * 6, "by the engine's own count"


async def test_a_full_queue_is_the_floods_not_the_mouses(start_gateway: StartGateway) -> None:
    async with (
        FakeEngine(slots=2, token_delay_s=0.002, tokens=64) as engine,
        start_gateway(engine.url, engine_concurrency=2, max_queue_size=8, api_keys=KEYS) as running,
    ):
        elephant = asyncio.create_task(flood(running.url, "sk-test", 40, {}, inf, 8))
        await queued(running, 8)
        until, statuses = monotonic() + 0.8, set[int]()
        while monotonic() < until:
            statuses.add((await chat_as(running.url, "sk-mouse", max_tokens=1)).status)
        elephant.cancel()
        await asyncio.wait([elephant])
        assert statuses == {200}
        assert running.figures()['forebay_queue_refusals_total{model="fake-model",reason="gave_way"}'] > 0
