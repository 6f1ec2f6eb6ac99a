"""Streams whose engine is lost midway: the client sees one unbroken answer."""

import asyncio
import json
from time import monotonic
from typing import Any

import openai
import pytest

from forebay.gateway.sending import VAIN_PAUSE_S
from forebay.gateway.timekeeping import SWEEP_EVERY_S
from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.conftest import KEY, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, fetch
from tests.waiting import all_ready

COMPLETIONS = "/v1/completions"
USAGE = {"include_usage": True}

LOSSES = {
    "closed between events": Behaviour(faults=[Fault("token", "close", after=3)]),
    "reset within an event": Behaviour(faults=[Fault("mid_event", "reset", after=3)]),
    "closed within a chunk": Behaviour(faults=[Fault("mid_chunk", "close", after=3)]),
    "ended properly but early": Behaviour(faults=[Fault("token", "finish", after=3)]),
    "aborted": Behaviour(tokens=3, finish_reason="abort"),
    "failed midway": Behaviour(error_after=3),
    "engine core died": Behaviour(
        insert={3: b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError"}}\n\n'}
    ),
}


def chunks_of(answer: Response) -> list[dict[str, Any]]:
    """The events of a stream that must be whole and without error."""
    assert (answer.status, answer.ended) == (200, "complete")
    assert answer.events[-1].data == "[DONE]"
    chunks = [json.loads(event.data or "") for event in answer.events[:-1]]
    assert not any("error" in chunk for chunk in chunks)
    return chunks


def text_of(chunks: list[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_the_client_sees_one_unbroken_stream(loss: Behaviour, path: str, start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            body = {"model": "fake-model", "stream": True, "max_tokens": 8, "stream_options": USAGE}
            body |= {"messages": [{"role": "user", "content": "one two"}]} if path == CHAT else {"prompt": "one two"}
            undisturbed = chunks_of(await fetch(running.url, "POST", path, body, **AUTH))
            struck = False

            def once(record: Any) -> Behaviour:
                nonlocal struck
                first, struck = not struck, True
                return loss if first else Behaviour()

            one.default = two.default = once
            chunks = chunks_of(await fetch(running.url, "POST", path, body, **AUTH))
            assert text_of(chunks) == text_of(undisturbed) == "".join(f" t{n}" for n in range(8))
            assert len({chunk["id"] for chunk in chunks}) == 1
            assert len({chunk["object"] for chunk in chunks}) == 1
            roles = [c for chunk in chunks for c in chunk["choices"] if (c.get("delta") or {}).get("role")]
            assert len(roles) == (1 if path == CHAT else 0)
            assert [chunk["usage"] for chunk in chunks if "usage" in chunk] == [undisturbed[-1]["usage"]]
            ends = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
            assert ends == ["length"]
            keys = {tuple(c) for chunk in undisturbed for c in chunk["choices"]}
            if path == CHAT:
                assert {tuple(c) for chunk in chunks for c in chunk["choices"]} <= keys
            assert b"1000000" not in json.dumps(chunks).encode()  # the ids are between us and the engines
            again = one.requests + two.requests
            assert any(isinstance((record.body or {}).get("prompt"), list) for record in again)


async def test_the_next_engine_is_asked_for_what_is_left(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            one.default = two.default = lambda record: (
                Behaviour(faults=[Fault("token", "reset", after=3)]) if record.path == CHAT else Behaviour()
            )
            fields = {
                "temperature": 0.5,
                "top_p": 0.9,
                "seed": 7,
                "min_tokens": 5,
                "user": "u",
                "chat_template_kwargs": {},
            }
            chunks_of(await chat(running.url, stream=True, max_completion_tokens=8, **fields))
            (record,) = one.calls(COMPLETIONS) + two.calls(COMPLETIONS)
            assert record.body["max_tokens"] == 5
            assert record.body["min_tokens"] == 2
            assert {name: record.body[name] for name in ("temperature", "top_p", "seed")} == {
                "temperature": 0.5,
                "top_p": 0.9,
                "seed": 7,
            }
            assert "messages" not in record.body
            assert "chat_template_kwargs" not in record.body
            assert record.body["prompt"][-3:] == [1_000_000, 1_000_001, 1_000_002]


async def test_text_is_what_it_goes_on_from_where_stop_strings_hold_some_back(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            one.default = two.default = lambda record: (
                Behaviour() if record.body.get("continue_final_message") else LOSSES["closed between events"]
            )
            chunks = chunks_of(await chat(running.url, stream=True, max_tokens=8, stop=["END"], stream_options=USAGE))
            assert text_of(chunks) == "".join(f" t{n}" for n in range(8))
            assert chunks[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 8, "total_tokens": 9}
            record = next(r for r in one.requests + two.requests if (r.body or {}).get("continue_final_message"))
            assert record.body["messages"][-1] == {"role": "assistant", "content": " t0 t1 t2"}
            assert record.body["add_generation_prompt"] is False


async def test_a_stream_may_lose_its_engine_more_than_once(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url, takeover_attempts=3) as running:
            await all_ready(running)
            lose = Behaviour(faults=[Fault("token", "reset", after=2)])
            losses = iter([lose, lose, lose])
            one.default = two.default = lambda record: next(losses, Behaviour())
            chunks = chunks_of(await chat(running.url, stream=True, max_tokens=8))
            assert text_of(chunks) == "".join(f" t{n}" for n in range(8))


async def test_no_more_often_than_allowed(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url, takeover_attempts=2) as running:
            await all_ready(running)
            one.default = two.default = lambda record: Behaviour(faults=[Fault("token", "reset", after=2)])
            answer = await chat(running.url, stream=True, max_tokens=8)
            assert b'"code":"engine_unavailable"' in answer.body
            assert answer.events[-1].data == "[DONE]"
            assert len([r for e in (one, two) for r in e.requests if r.method == "POST"]) == 3


async def test_the_only_engine_is_waited_for_until_it_is_back(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url) as running:
        streams = [asyncio.create_task(chat(running.url, stream=True, max_tokens=8)) for _ in range(4)]
        whole = [asyncio.create_task(chat(running.url, max_tokens=8)) for _ in range(4)]
        await engine.wait_for(lambda e: e.generated >= 16)
        await engine.stop()
        async with asyncio.timeout(20):
            while next(iter(running.gateway.replicas)).ready:
                await asyncio.sleep(0.01)
        await engine.start()
        for answer in await asyncio.gather(*streams):
            assert text_of(chunks_of(answer)) == "".join(f" t{n}" for n in range(8))
        assert [answer.status for answer in await asyncio.gather(*whole)] == [200] * 4
        assert len(running.gateway.pipeline.running) == 0
        assert running.figures()['forebay_takeovers_total{endpoint="chat_completions"}'] >= 8


async def test_engines_that_are_down_too_are_not_asked_again_and_again(start_gateway: StartGateway) -> None:
    """The monitor has not noticed yet, so only the refused connections tell."""
    async with FakeEngine(token_delay_s=0.01) as one, FakeEngine(token_delay_s=0.01) as two:
        async with start_gateway(one.url, two.url, health_interval_s=60.0) as running:
            await all_ready(running)
            stream = asyncio.create_task(chat(running.url, stream=True, max_tokens=8))
            while one.generated + two.generated < 3:
                await asyncio.sleep(0.002)
            (exchange,) = running.gateway.pipeline.running
            await one.stop()
            await two.stop()
            began = monotonic()
            while exchange.attempts < 6:
                await asyncio.sleep(0.002)
            assert monotonic() - began > 2 * SWEEP_EVERY_S
            await one.start()
            assert text_of(chunks_of(await stream)) == "".join(f" t{n}" for n in range(8))


async def test_engines_that_fail_at_once_do_not_use_up_the_takeovers(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url, takeover_attempts=3) as running:
            await all_ready(running)
            fates = iter([LOSSES["reset within an event"], Behaviour(status=503), Behaviour(status=500)])
            one.default = two.default = lambda record: next(fates, Behaviour())
            began = monotonic()
            chunks = chunks_of(await chat(running.url, stream=True, max_tokens=8))
            assert text_of(chunks) == "".join(f" t{n}" for n in range(8))
            assert monotonic() - began > VAIN_PAUSE_S


async def test_what_an_engine_held_that_was_out_of_rotation_when_it_died_is_waited_for(
    start_gateway: StartGateway,
) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        assert (await chat(running.url)).status == 200  # so the next request goes over a connection that has served
        engine.script(Behaviour(faults=[Fault("head", gate), Fault("head", "reset")]))
        waiting = asyncio.create_task(chat(running.url))
        await engine.wait_for(lambda e: e.running == 1)
        engine.on("/health", Behaviour(status=500))
        engine.on("/v1/models", Behaviour(status=500))
        while running.gateway.replicas.ready:
            await asyncio.sleep(0.005)
        gate.set()
        await engine.wait_for(lambda e: e.running == 0)
        engine.on("/health", None)
        engine.on("/v1/models", None)
        assert (await waiting).status == 200


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stream_that_is_cut_behind_its_closing_line_was_whole(how: Any, start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url, breaker_failures=1) as running:
        engine.script(Behaviour(faults=[Fault("end", how)]))
        answer = await chat(running.url, stream=True, max_tokens=4, stream_options=USAGE)
        chunks = chunks_of(answer)
        assert [event.data for event in answer.events].count("[DONE]") == 1
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk] == [4]
        assert len(engine.calls(CHAT)) == 1
        assert next(iter(running.gateway.replicas)).breaker.state.value == "closed"


async def test_what_was_under_way_on_kept_alive_connections_is_waited_for_too(start_gateway: StartGateway) -> None:
    """Such a connection's end looks like a stale one's until the next cannot be made."""
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url) as running:
        await asyncio.gather(*(chat(running.url, max_tokens=1) for _ in range(8)))
        asked = [asyncio.create_task(chat(running.url, max_tokens=8)) for _ in range(8)]
        await engine.wait_for(lambda e: e.running == 8)
        await engine.stop()
        while running.gateway.replicas.ready:
            await asyncio.sleep(0.005)
        await engine.start()
        assert [(await answer).status for answer in asked] == [200] * 8


async def test_it_is_not_waited_for_longer_than_that(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url, takeover_wait_s=0.5) as running:
        stream = asyncio.create_task(chat(running.url, stream=True, max_tokens=8))
        await engine.wait_for(lambda e: e.generated >= 3)
        await engine.stop()
        answer = await asyncio.wait_for(stream, 20)
        assert b'"code":"engine_unavailable"' in answer.body
        assert answer.events[-1].data == "[DONE]"


async def test_a_client_that_leaves_while_its_engine_is_waited_for_is_forgotten(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url) as running:
        stream = asyncio.create_task(chat(running.url, stream=True, max_tokens=8))
        await engine.wait_for(lambda e: e.generated >= 3)
        await engine.stop()
        stream.cancel()
        async with asyncio.timeout(20):
            while running.gateway.pipeline.running:
                await asyncio.sleep(0.01)
        await engine.start()
        async with asyncio.timeout(20):
            while not running.gateway.replicas.ready:
                await asyncio.sleep(0.01)
        assert (await chat(running.url, max_tokens=2)).status == 200
        assert len([r for r in engine.requests if r.method == "POST"]) == 2


async def test_a_stalled_engines_streams_go_on_elsewhere(start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.002) as one, FakeEngine(token_delay_s=0.002) as two:
        async with start_gateway(one.url, two.url, engine_stall_s=0.4) as running:
            await all_ready(running)
            one.default = lambda record: Behaviour(faults=[Fault("token", "hang", after=3)])
            answers = await asyncio.gather(*(chat(running.url, stream=True, max_tokens=8) for _ in range(6)))
            for answer in answers:
                assert text_of(chunks_of(answer)) == "".join(f" t{n}" for n in range(8))


async def test_what_was_only_not_ended_is_ended(start_gateway: StartGateway) -> None:
    """The finish has been delivered, the usage has not: nothing needs to be generated."""
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        engine.script(Behaviour(done=False, usage=False))
        chunks = chunks_of(await chat(running.url, stream=True, max_tokens=4, stream_options=USAGE))
        assert chunks[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        assert len([r for r in engine.requests if r.method == "POST"]) == 1


UNRESUMABLE = {
    "several answers": {"n": 2},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "log-probabilities": {"logprobs": True},
    "structured output": {"response_format": {"type": "json_object"}},
    "token ids of their own": {"return_token_ids": True},
}


@pytest.mark.parametrize("fields", UNRESUMABLE.values(), ids=UNRESUMABLE.keys())
async def test_what_cannot_go_on_ends_with_an_error(fields: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as one, FakeEngine(token_delay_s=0.01) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            one.default = two.default = LOSSES["closed between events"]
            client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)
            stream: Any = await client.chat.completions.create(**chat_body(stream=True), extra_body=fields)
            with pytest.raises(openai.APIError, match="stopped while it worked"):
                async for _ in stream:
                    pass
            await client.close()


async def test_a_long_answer_goes_on_where_it_was(start_gateway: StartGateway) -> None:
    size = 30_000
    async with (
        FakeEngine(tokens=size, max_model_len=2 * size) as one,
        FakeEngine(tokens=size, max_model_len=2 * size) as two,
    ):
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            struck = False

            def once(record: Any) -> Behaviour:
                nonlocal struck
                first, struck = not struck, True
                return Behaviour(faults=[Fault("token", "reset", after=size // 3)]) if first else Behaviour()

            one.default = two.default = once
            answer = await chat(running.url, stream=True, max_tokens=size)
            assert text_of(chunks_of(answer)) == "".join(f" t{n}" for n in range(size))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_all_that_a_dying_engine_held_is_taken_over_whatever_the_retry_budget(
    stream: bool, start_gateway: StartGateway
) -> None:
    async with FakeEngine(token_delay_s=0.01) as one, FakeEngine(token_delay_s=0.01) as two:
        async with start_gateway(one.url, two.url) as running:
            await all_ready(running)
            asked = [asyncio.create_task(chat(running.url, stream=stream, max_tokens=8)) for _ in range(100)]
            await one.wait_for(lambda e: len(e.calls(CHAT)) >= 40 and e.generated >= 80)
            await one.stop()
            answers = await asyncio.gather(*asked)
            assert [answer.status for answer in answers] == [200] * 100
            if stream:
                assert {text_of(chunks_of(answer)) for answer in answers} == {"".join(f" t{n}" for n in range(8))}
