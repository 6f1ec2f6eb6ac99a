"""The batching client against a gateway, and against a server that breaks its connections."""

import asyncio
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from forebay.client import AsyncClient, Client, GenerationError, Usage
from tests.gateway.completions import PATH, ListAnswers, prompts_of, text_for
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
PATIENT = {"max_wait_s": 60.0}  # a test that waited for this would fail


def client_of(running: Running, **options: Any) -> AsyncClient:
    return AsyncClient(running.url, api_key="sk-test", **options)


def asked(engine: FakeEngine) -> list[list[Any]]:
    """The prompts of each request that the engine got."""
    return [prompts_of(record) for record in engine.calls(PATH) if record.body.get("max_tokens") != 1]


# What goes together


async def test_calls_with_equal_parameters_share_a_request_and_others_go_beside_it(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        engine.default = ListAnswers()
        results = await asyncio.gather(
            client.generate("one", temperature=0.1, max_tokens=3),
            client.generate("two", temperature=0.9),
            client.generate("three", max_tokens=3, temperature=0.1),
            client.generate([5, 6, 7], temperature=0.9),
        )
        assert [one.text for one in results] == [
            text_for("one", 0.1),
            text_for("two", 0.9),
            text_for("three", 0.1),
            text_for([5, 6, 7], 0.9),
        ]
        assert sorted(asked(engine), key=str) == [["one", "three"], ["two"], [[5, 6, 7]]]
        assert not engine.violations


async def test_each_result_has_its_own_usage_and_choices(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        engine.default = ListAnswers()
        short, long = await client.map(["a", "b c d"], max_tokens=5, n=2)
        assert (short.usage, long.usage) == (Usage(1, 10), Usage(3, 10))
        assert (long.tokens, long.finish_reason, len(long.choices)) == (10, "length", 2)
        assert {choice["text"] for choice in long.choices} == {text_for("b c d")}
        alone = await client.generate("e f", max_tokens=4)
        assert alone.usage == Usage(2, 4)
        assert "return_token_ids" not in engine.calls(PATH)[-1].body, "the usage of one prompt is told anyway"


async def test_a_thousand_results_come_in_the_order_of_their_prompts(start_gateway: StartGateway) -> None:
    prompts = [f"prompt {number}" for number in range(1000)]
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        engine.default = ListAnswers()
        results = await client.map(prompts)
        assert [result.text for result in results] == [text_for(prompt) for prompt in prompts]
        sizes = [len(batch) for batch in asked(engine)]
        assert sum(sizes) == 1000
        assert 8 <= max(sizes) <= 64


async def test_a_call_goes_at_once_where_nothing_is_under_way(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running, **PATIENT) as client:
        engine.default = ListAnswers()
        async with asyncio.timeout(20):
            assert (await client.generate("alone")).text == text_for("alone")


async def test_while_another_is_under_way_a_call_waits_for_company_but_not_long(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = ListAnswers()
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        async with client_of(running, max_wait_s=0.2) as client, asyncio.TaskGroup() as group:
            group.create_task(client.generate("first"))
            await engine.wait_for(lambda e: e.running == 1)
            began = monotonic()
            second = group.create_task(client.generate("second"))
            await asyncio.sleep(0)
            third = group.create_task(client.generate("third"))
            await asyncio.wait([second, third])
            assert 0.19 < monotonic() - began < 20.0
            assert asked(engine) == [["first"], ["second", "third"]]
            gate.set()


async def test_a_full_request_waits_for_nobody(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = ListAnswers()
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        async with client_of(running, max_batch_size=2, **PATIENT) as client, asyncio.TaskGroup() as group:
            group.create_task(client.generate("first"))
            await engine.wait_for(lambda e: e.running == 1)
            async with asyncio.timeout(20):
                assert all(not one.error for one in await client.map(["a", "b", "c", "d"]))
            assert asked(engine) == [["first"], ["a", "b"], ["c", "d"]]
            gate.set()


async def test_no_more_requests_are_under_way_than_allowed(start_gateway: StartGateway) -> None:
    most = 0

    def watch(engine: FakeEngine) -> bool:
        nonlocal most
        most = max(most, engine.running)
        return False

    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = ListAnswers(head_delay_s=0.01)
        watching = asyncio.create_task(engine.wait_for(watch))
        async with client_of(running, max_concurrency=3, max_batch_size=4) as client:
            await client.map([str(number) for number in range(100)])
        watching.cancel()
        assert most == 3


# What goes wrong


@pytest.mark.parametrize("at", [{0}, {7, 8}, set(range(10, 20)), set(range(24))])
async def test_a_bad_prompt_costs_no_other_its_answer(start_gateway: StartGateway, at: set[int]) -> None:
    prompts = [f"{'bad' if number in at else 'good'} {number}" for number in range(24)]
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        answers = engine.default = ListAnswers()
        results = await client.map(prompts)
        assert {number for number, result in enumerate(results) if result.error} == at
        for number, result in enumerate(results):
            if result.error is None:
                assert result.text == text_for(prompts[number])
            else:
                assert (result.error.status, result.error.code) == (400, "invalid_value")
                assert prompts[number] in str(result.error)
        good = Counter(one for one in answers.answered if one in prompts)
        assert set(good.values()) <= {1}, "nothing that was answered is asked again"


async def test_a_parameter_that_is_refused_is_not_tried_prompt_by_prompt(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with client_of(running, model="fake-model") as client:
            results = await client.map(["a"] * 8, max_tokens=-1)
        assert [(one.error.status, one.error.param) for one in results if one.error] == [(400, "max_tokens")] * 8
        await running.stop()
        assert len([line for line in running.log_lines() if line["message"] == "request"]) == 1


async def test_prompts_that_are_too_long_together_go_one_by_one(start_gateway: StartGateway) -> None:
    prompts = [letter * 700_000 for letter in "abc"]
    async with FakeEngine() as engine, start_gateway(engine.url, max_body_bytes=1_000_000) as running:
        engine.default = ListAnswers()
        async with client_of(running) as client:
            results = await client.map([*prompts, "d" * 1_100_000])
        assert [result.text for result in results[:3]] == [text_for(prompt) for prompt in prompts]
        assert results[3].error is not None
        assert results[3].error.status == 413


async def test_one_call_raises_what_the_gateway_says(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with AsyncClient(running.url, api_key="sk-wrong") as client:
            with pytest.raises(GenerationError) as wrong:
                await client.generate("a")
        assert (wrong.value.status, wrong.value.code) == (401, "invalid_api_key")
        assert wrong.value.request_id
        async with client_of(running, model="no-such-model") as client:
            with pytest.raises(GenerationError, match="no-such-model"):
                await client.generate("a")


async def test_what_is_refused_for_now_is_asked_again_not_before_it_is_told(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        answers = engine.default = ListAnswers()
        engine.script(Behaviour(status=500))  # the gateway says 503, and to come back in a second
        began = monotonic()
        results = await client.map(["a", "b", "c"])
        assert [result.text for result in results] == [text_for("a"), text_for("b"), text_for("c")]
        assert 1.0 <= monotonic() - began < 20.0
        assert sorted(answers.answered) == ["a", "b", "c"]
        assert client._batcher.pace("").size == 4, "less is asked at once from now on"


async def test_a_caller_who_may_have_one_request_at_once_gets_all_answers(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"concurrency": 1}) as running:
        answers = engine.default = ListAnswers(head_delay_s=0.02)
        prompts = [str(number) for number in range(60)]
        async with client_of(running, max_concurrency=3) as client:
            results = await client.map(prompts)
        assert [result.error for result in results] == [None] * 60
        assert Counter(answers.answered) == Counter(prompts)
        await running.stop()
        assert 429 in {line.get("status") for line in running.log_lines()}


async def test_a_quota_that_is_used_up_is_no_reason_to_try_again(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, key_limits={"tokens_per_day": 1}) as running:
        engine.default = ListAnswers()
        async with client_of(running) as client:
            assert (await client.generate("the first", max_tokens=2)).tokens == 2
            async with asyncio.timeout(20):
                (result,) = await client.map(["a"])
        assert result.error is not None
        assert (result.error.status, result.error.code) == (429, "insufficient_quota")
        assert asked(engine) == [["the first"]]


async def test_tries_are_bounded() -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url, max_retries=2) as client:
        engine.default = Behaviour(status=503, headers=[("retry-after", "0")])
        results = await client.map(["a", "b"])
        assert [result.error.status for result in results if result.error] == [503, 503]
        assert [len(prompts) for prompts in asked(engine)] == [2, 2, 2]


@pytest.mark.parametrize("where", ["head", "mid_head", "mid_event"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_is_lost_midway_costs_no_answer(where: Any, how: Any) -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url) as client:
        answers = ListAnswers()
        engine.script(lambda record: ListAnswers(faults=[Fault(where, how)])(record))
        engine.default = answers
        results = await client.map(["a", "b", "c"])
        assert [result.text for result in results] == [text_for("a"), text_for("b"), text_for("c")]
        assert answers.answered == ["a", "b", "c"]


async def test_a_kept_alive_connection_that_was_closed_meanwhile_is_no_try() -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url, max_retries=0) as client:
        engine.default = ListAnswers(then="drop_on_next")
        assert [(await client.generate(prompt)).text for prompt in "abc"] == [text_for(prompt) for prompt in "abc"]


async def test_nobody_there_is_said_after_the_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with AsyncClient(f"http://127.0.0.1:{port}", max_retries=1) as client:
        (result,) = await client.map(["a"])
        assert result.error is not None
        assert (result.error.status, result.error.code) == (None, "no_connection")
        assert result.text == ""
        assert result.tokens is None


async def test_an_answer_that_takes_too_long_is_given_up_and_not_asked_for_again() -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url, timeout_s=1.0) as client:
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        with pytest.raises(GenerationError) as late:
            await client.generate("a")
        assert (late.value.status, late.value.code) == (None, "timeout")
        await engine.wait_for(lambda e: e.running == 0)
        (record,) = engine.calls(PATH)
        assert (record.outcome, record.headers["x-request-timeout-ms"]) == ("aborted", "1000")


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", {"choices": []}, {"choices": [{"index": 0, "text": "one for two"}]}, {"choices": [{}, {}]}],
)
async def test_an_answer_that_is_none_is_an_error_and_not_asked_for_again(body: Any) -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url) as client:
        engine.default = Behaviour(body=body)
        results = await client.map(["a", "b"])
        assert [result.error.code for result in results if result.error] == ["invalid_answer"] * 2
        assert len(engine.calls(PATH)) == 1


async def test_an_error_in_no_form_at_all_is_shown_as_it_is() -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url) as client:
        engine.default = Behaviour(status=403, body="<h1>not here</h1>")
        with pytest.raises(GenerationError, match="<h1>not here</h1>") as refused:
            await client.generate("a")
        assert refused.value.status == 403


async def test_without_a_name_it_is_the_servers_only_model() -> None:
    async with FakeEngine(models=("one",)) as engine, AsyncClient(engine.url) as client:
        engine.default = ListAnswers()
        await client.map(["a", "b"])
        assert (await client.generate("c", model="one")).text == text_for("c")
        assert [record.body["model"] for record in engine.calls(PATH)] == ["one", "one"]
        engine.models = ["another"]
        engine.script(Behaviour(status=404))
        assert isinstance((await client.map(["d"]))[0].error, GenerationError)
        await client.generate("e")
        assert engine.calls(PATH)[-1].body["model"] == "another"


async def test_of_several_models_one_must_be_named() -> None:
    async with FakeEngine(models=("one", "two")) as engine, AsyncClient(engine.url) as client:
        engine.default = ListAnswers()
        with pytest.raises(GenerationError, match="one, two"):
            await client.generate("a")
        assert (await client.generate("a", model="two")).text == text_for("a")


@pytest.mark.parametrize("sampling", [{"stream": True}, {"prompt": "b"}, {"temperature": object()}, {"model": 5}])
async def test_what_is_no_sampling_parameter_is_refused_before_anything_is_sent(sampling: dict[str, Any]) -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url) as client:
        with pytest.raises(TypeError):
            await client.map(["a"], **sampling)
        assert not engine.requests


@pytest.mark.parametrize("prompt", [None, 5, {"a": 1}, ["a", "b"], "\ud800"])
async def test_what_is_no_prompt_is_refused_before_anything_is_sent(prompt: Any) -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url) as client:
        with pytest.raises((TypeError, ValueError)):
            await client.map(["a", prompt])
        with pytest.raises(TypeError):
            await client.map("a text, not a list of texts")
        assert not engine.requests


@pytest.mark.parametrize(
    "wrong", [{"max_batch_size": 0}, {"max_concurrency": 0}, {"timeout_s": 0}, {"api_key": "a\r\nx: y"}]
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        AsyncClient("http://127.0.0.1:1", **wrong)


# Leaving


async def test_a_call_that_is_cancelled_harms_no_other_of_its_request(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running, client_of(running) as client:
        engine.default = ListAnswers(faults=[Fault("head", gate)])
        calls = [asyncio.create_task(client.generate(prompt)) for prompt in ("a", "b", "c")]
        await engine.wait_for(lambda e: e.running == 1)
        calls[1].cancel()
        gate.set()
        assert (await calls[0]).text == text_for("a")
        assert (await calls[2]).text == text_for("c")
        assert calls[1].cancelled()
        assert asked(engine) == [["a", "b", "c"]]


async def test_a_request_that_all_its_callers_left_is_given_up(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        async with client_of(running, max_concurrency=1) as client:
            engine.default = Behaviour(faults=[Fault("head", "hang")])
            mapping = asyncio.create_task(client.map(["a", "b"]))
            await engine.wait_for(lambda e: e.running == 1)
            mapping.cancel()
            await engine.wait_for(lambda e: e.running == 0)
            engine.default = ListAnswers()
            assert (await client.generate("next")).text == text_for("next"), "its place is free again"
        assert engine.calls(PATH)[-2].outcome == "aborted"


async def test_a_call_that_is_cancelled_before_its_turn_is_never_sent() -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, AsyncClient(engine.url, max_concurrency=1) as client:
        engine.default = ListAnswers(faults=[Fault("head", gate)])
        first = asyncio.create_task(client.generate("first"))
        await engine.wait_for(lambda e: e.running == 1)
        others = [asyncio.create_task(client.generate(prompt)) for prompt in ("left", "stays")]
        await asyncio.sleep(0)
        others[0].cancel()
        gate.set()
        await asyncio.wait([first, *others])
        assert asked(engine) == [["first"], ["stays"]]


async def test_cancelling_in_the_turn_in_which_it_is_sent_leaves_nothing_behind() -> None:
    async with FakeEngine() as engine, AsyncClient(engine.url, max_concurrency=1) as client:
        engine.default = ListAnswers()
        for turns in range(6):
            call = asyncio.create_task(client.generate("gone"))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            async with asyncio.timeout(20):
                await client.generate("next")
        assert (client._batcher.waiting, len(client._batcher.in_flight), client._open) == (0, 0, set())


async def test_closing_waits_for_what_is_under_way_and_takes_no_more() -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        engine.default = ListAnswers(faults=[Fault("head", gate)])
        client = AsyncClient(engine.url, **PATIENT)
        first = asyncio.create_task(client.generate("first"))
        await engine.wait_for(lambda e: e.running == 1)
        second = asyncio.create_task(client.generate("second"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(client.aclose())
        await engine.wait_for(lambda e: e.running == 2)
        with pytest.raises(RuntimeError, match="closed"):
            await client.generate("late")
        assert not closing.done()
        gate.set()
        async with asyncio.timeout(20):
            await closing
        assert [first.result().text, second.result().text] == [text_for("first"), text_for("second")]
        await engine.wait_for(lambda e: not e.connections)


async def test_closing_that_is_cancelled_gives_up_what_is_under_way() -> None:
    async with FakeEngine() as engine:
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        client = AsyncClient(engine.url, max_concurrency=1, max_batch_size=2)
        mapping = asyncio.create_task(client.map(list("abcde")))
        await engine.wait_for(lambda e: e.running == 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.aclose()
        assert [one.error.code for one in await mapping if one.error] == ["closed"] * 5
        await engine.wait_for(lambda e: not e.connections)
        assert len(engine.calls(PATH)) == 1


async def test_a_cancelled_block_gives_up_what_others_have_under_way() -> None:
    others: list[asyncio.Task[Any]] = []

    async def cancelled() -> None:
        async with AsyncClient(engine.url) as client:
            others.append(asyncio.create_task(client.generate("a")))
            await engine.wait_for(lambda e: e.running == 1)
            raise asyncio.CancelledError

    async with FakeEngine() as engine:
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(cancelled(), 30)
        with pytest.raises(GenerationError, match="closed"):
            await asyncio.wait_for(others[0], 30)
        await engine.wait_for(lambda e: e.running == 0)


# Without asyncio


async def test_the_client_without_asyncio_batches_the_calls_of_all_threads(start_gateway: StartGateway) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = ListAnswers()
        engine.script(Behaviour(faults=[Fault("head", gate)]))
        client = Client(running.url, api_key="sk-test", max_batch_size=4, **PATIENT)
        first = asyncio.create_task(asyncio.to_thread(client.generate, "first"))
        await engine.wait_for(lambda e: e.running == 1)
        texts = await asyncio.gather(
            *(asyncio.to_thread(client.generate, prompt, temperature=0.5) for prompt in "abcd")
        )
        assert [one.text for one in texts] == [text_for(prompt, 0.5) for prompt in "abcd"]
        assert sorted(asked(engine)[1]) == list("abcd")
        gate.set()
        await first
        good, bad = await asyncio.to_thread(client.map, ["good one", "bad one"])
        assert (good.text, good.error) == (text_for("good one"), None)
        assert bad.error is not None
        with pytest.raises(GenerationError, match="cannot be read"):
            await asyncio.to_thread(client.generate, "bad")
        await asyncio.to_thread(client.close)
        await asyncio.to_thread(client.close)
        with pytest.raises(RuntimeError, match="closed"):
            client.generate("late")
        assert "forebay-client" not in {thread.name for thread in threading.enumerate()}


async def test_ctrl_c_gives_up_what_is_under_way() -> None:
    program = (
        "import sys; from forebay.client import Client\nwith Client(sys.argv[1]) as client: client.map(['a', 'b'])"
    )
    async with FakeEngine() as engine:
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        waiting = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, engine.url, stderr=asyncio.subprocess.PIPE
        )
        await engine.wait_for(lambda e: e.running == 1)
        waiting.send_signal(signal.SIGINT)
        await engine.wait_for(lambda e: e.running == 0)
        async with asyncio.timeout(20):
            _, said = await waiting.communicate()
        assert said.decode().splitlines()[-1] == "KeyboardInterrupt"


async def test_ctrl_c_gives_up_what_other_threads_have_under_way() -> None:
    """So it does with a call that it interrupts before anybody waits for it."""
    interrupted = threading.Event()

    def run() -> None:
        with Client(engine.url) as client:
            calls.append(asyncio.run_coroutine_threadsafe(asyncio.to_thread(client.generate, "a"), here))
            interrupted.wait()
            raise KeyboardInterrupt

    here = asyncio.get_running_loop()
    calls: list[Future[Any]] = []
    async with FakeEngine() as engine:
        engine.default = Behaviour(faults=[Fault("head", "hang")])
        block = asyncio.create_task(asyncio.to_thread(_outcome, run))
        await engine.wait_for(lambda e: e.running == 1)
        interrupted.set()
        async with asyncio.timeout(20):
            assert isinstance(await block, KeyboardInterrupt)
            with pytest.raises(GenerationError, match="closed"):
                await asyncio.wrap_future(calls[0])
            await engine.wait_for(lambda e: e.running == 0)


def _outcome(run: Callable[[], None]) -> BaseException | None:
    """What it raised: an event loop that sees a KeyboardInterrupt ends."""
    try:
        run()
    except BaseException as raised:
        return raised
    return None


def test_a_client_that_was_never_called_closes_too() -> None:
    with Client("http://127.0.0.1:1"):
        pass


# What the page says


async def test_what_the_page_says_works(start_gateway: StartGateway, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.default = ListAnswers()
        for block in blocks:
            code = block.replace("http://127.0.0.1:8000", running.url).replace("sk-...", "sk-test")
            await asyncio.to_thread(exec, compile(code, PAGE.name, "exec"), {"__name__": "__main__"})
        assert text_for("The capital of France is", 0) in capsys.readouterr().out
