"""The load generator measures what an engine with known token times really does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from statistics import median

import pytest

from forebay.loadgen.arrivals import Closed, Load, arrivals
from forebay.loadgen.asking import Asker
from forebay.loadgen.figures import Measured, Sample, summarise
from forebay.loadgen.prompts import Lengths, Scale, said, synthetic
from forebay.loadgen.run import Standing, measure
from forebay.loadgen.target import NoServer, Target, measured_scale, with_model
from forebay.upstream.pool import Address, UpstreamPool
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault

DELAY_S = 0.02
SLACK_S = 0.01  # what timers and this machine add at most, in the median


@dataclass
class Loaded:
    """An engine, and what is needed to load it."""

    engine: FakeEngine
    target: Target
    pool: UpstreamPool

    async def run(
        self, count: int, load: Load, *, timeout_s: float = 5.0, stop: asyncio.Event | None = None
    ) -> Measured:
        requests = [self.target.question(said(f"prompt number {number}", 100)) for number in range(count)]
        return await measure(Asker(self.pool, timeout_s), requests, load, stop or asyncio.Event())


@pytest.fixture
async def loaded() -> AsyncIterator[Loaded]:
    async with FakeEngine(tokens=6, token_delay_s=DELAY_S) as engine:
        address = Address.parse(engine.url)
        pool = UpstreamPool(address, connect_timeout_s=2, idle_s=4, max_connections=1000)
        yield Loaded(engine, await with_model(Target(address), pool), pool)
        pool.close()
        assert not engine.violations


@pytest.mark.parametrize("chat", [True, False])
async def test_times_are_those_at_which_the_engine_sends_tokens(loaded: Loaded, chat: bool) -> None:
    loaded.engine.default = Behaviour(head_delay_s=0.1)
    loaded.target = Target(loaded.target.address, None, "fake-model", chat)
    found = summarise(await loaded.run(12, Closed(2)))
    assert found.completed == 12
    assert found.ttft_s is not None
    assert found.itl_s is not None
    assert found.tpot_s is not None
    assert found.e2e_s is not None
    assert 0.1 + DELAY_S <= found.ttft_s.median < 0.1 + DELAY_S + SLACK_S
    assert abs(found.itl_s.median - DELAY_S) < SLACK_S
    assert found.itl_s.count == 12 * 5
    assert abs(found.tpot_s.median - DELAY_S) < SLACK_S
    assert 0.1 + 6 * DELAY_S <= found.e2e_s.median < 0.1 + 6 * (DELAY_S + SLACK_S)
    assert (found.output_tokens, found.prompt_tokens) == (12 * 6, 12 * 3)


async def test_what_it_measures_is_what_the_engine_noted(loaded: Loaded) -> None:
    run = await loaded.run(10, Closed(1))
    took = [record.ended - record.started for record in loaded.engine.calls("/v1/chat/completions") if record.ended]
    assert len(took) == 10
    assert abs(median(one.e2e for one in run.samples) - median(took)) < SLACK_S


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (Behaviour(status=503), "status 503: Scripted failure."),
        (Behaviour(faults=[Fault("token", "reset", after=3)]), "closed"),
        (Behaviour(faults=[Fault("token", "finish", after=3)]), "ended before [DONE]"),
        (Behaviour(error_after=2), "Internal server error"),
        (Behaviour(finish_reason="abort"), "gave up"),
        (Behaviour(tokens=2, content_type="text/plain"), "no stream"),
        (Behaviour(insert={2: b"data: {not JSON\n\n"}), "not what a completion says"),
        (Behaviour(faults=[Fault("token", "hang", after=2)]), "within 1.5 s"),
    ],
)
async def test_a_failed_request_is_counted_and_is_in_no_latency(loaded: Loaded, behaviour: Behaviour, why: str) -> None:
    loaded.engine.script(Behaviour(), behaviour, Behaviour())
    found = summarise(await loaded.run(3, Closed(1), timeout_s=1.5))
    assert (found.completed, found.failed) == (2, 1)
    (failure,) = found.failures
    assert why in failure
    assert found.ttft_s is not None
    assert found.e2e_s is not None
    assert (found.ttft_s.count, found.e2e_s.count, found.output_tokens) == (2, 2, 12)


async def test_a_server_that_is_not_there_fails_every_request(loaded: Loaded) -> None:
    await loaded.engine.stop()
    found = summarise(await loaded.run(5, Closed(2)))
    assert (found.completed, found.failed) == (0, 5)
    assert "no connection" in next(iter(found.failures))


async def test_an_open_load_waits_for_no_answer(loaded: Loaded) -> None:
    hold = asyncio.Event()
    loaded.engine.default = Behaviour(faults=[Fault("head", hold)])
    running = asyncio.create_task(loaded.run(20, arrivals("fixed", 200.0, 20, Random(0))))
    await loaded.engine.wait_for(lambda engine: engine.running == 20)
    hold.set()
    run = await running
    sent = [one.sent - run.started for one in sorted(run.samples, key=lambda one: one.sent)]
    assert median(abs(time - number / 200) for number, time in enumerate(sent)) < 0.02
    assert len(run.late_s) == 20


async def test_a_closed_load_has_so_many_under_way_and_no_more(loaded: Loaded) -> None:
    most = 0

    def count(engine: FakeEngine) -> bool:
        nonlocal most
        most = max(most, engine.running)
        return sum(record.outcome == "finished" for record in engine.calls("/v1/chat/completions")) == 12

    running = asyncio.create_task(loaded.run(12, Closed(4)))
    await loaded.engine.wait_for(count)
    assert (await running).planned == 12
    assert most == 4
    assert len(loaded.engine.calls("/v1/chat/completions")) == 12


async def test_a_run_that_is_stopped_keeps_what_was_done_and_cuts_the_rest(loaded: Loaded) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(loaded.run(1000, Closed(3), stop=stop))
    await loaded.engine.wait_for(lambda engine: len(engine.calls("/v1/chat/completions")) > 10)
    stop.set()
    run = await running
    found = summarise(run)
    assert run.stopped
    assert found.completed >= 7
    assert (found.failed, found.cut) == (0, 3)
    await loaded.engine.wait_for(lambda engine: engine.running == 0)


async def test_a_run_ends_early_when_enough_is_known(loaded: Loaded) -> None:
    requests, ended = [loaded.target.question(said("hello", 100))] * 50, []

    def enough(sample: Sample) -> bool:
        ended.append(sample)
        return len(ended) == 4

    run = await measure(Asker(loaded.pool, 5.0), requests, Closed(2), asyncio.Event(), enough=enough)
    assert 4 <= len(run.samples) < 10
    assert not run.stopped


async def test_how_far_it_is_is_told(loaded: Loaded) -> None:
    told: list[Standing] = []
    requests = [loaded.target.question(said("hello", 100))] * 8
    await measure(Asker(loaded.pool, 5.0), requests, Closed(2), asyncio.Event(), told.append)
    assert (told[-1].ended, told[-1].tokens, told[-1].failed) == (8, 48, 0)


async def test_a_kept_connection_that_the_engine_drops_is_no_failure(loaded: Loaded) -> None:
    loaded.engine.script(Behaviour(then="drop_on_next"))
    assert summarise(await loaded.run(3, Closed(1))).failures == {}


async def test_events_cut_into_small_pieces_are_the_same_tokens(loaded: Loaded) -> None:
    loaded.engine.default = Behaviour(piece_bytes=7, token_delay_s=0.0)
    found = summarise(await loaded.run(2, Closed(1)))
    assert found.itl_s is not None
    assert (found.itl_s.count, found.output_tokens) == (2 * 5, 2 * 6)


async def test_without_usage_tokens_are_counted_by_events(loaded: Loaded) -> None:
    loaded.engine.default = Behaviour(usage=False)
    found = summarise(await loaded.run(2, Closed(1)))
    assert (found.output_tokens, found.prompt_tokens) == (12, 0)


async def test_synthetic_prompts_have_the_tokens_that_the_server_counts(loaded: Loaded) -> None:
    scale = await measured_scale(loaded.target, loaded.pool)
    assert scale == Scale(0.0, 1.0)
    prompts = islice(synthetic(Lengths(300, 5), scale, Random(0)), 3)
    requests = [loaded.target.question(prompt) for prompt in prompts]
    run = await measure(Asker(loaded.pool, 5.0), requests, Closed(1), asyncio.Event())
    assert [(one.prompt_tokens, one.output_tokens) for one in run.samples] == [(300, 5)] * 3


async def test_tokens_are_counted_by_an_answers_usage_where_there_is_no_tokenize(loaded: Loaded) -> None:
    loaded.engine.on("/tokenize", Behaviour(status=404))
    assert await measured_scale(loaded.target, loaded.pool) == Scale(0.0, 1.0)


async def test_a_key_that_is_not_taken_is_said_with_what_to_do(loaded: Loaded) -> None:
    loaded.engine.on("/v1/models", Behaviour(status=401))
    with pytest.raises(NoServer, match=r"status 401.*FOREBAY_API_KEY"):
        await with_model(Target(loaded.target.address), loaded.pool)
