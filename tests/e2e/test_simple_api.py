"""The simple endpoints and conversations on the real engine."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import MODEL, Service

pytestmark = pytest.mark.engine

FRANCE = {"prompt": "The capital of France is", "max_tokens": 8, "preset": "deterministic"}


def events_of(told: bytes) -> list[Any]:
    """The events of a stream, whose last must be its proper end."""
    *events, done, rest = told.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def begun(service: Service, **fields: Any) -> str:
    status, told = service.post("/v1/conversations", {"model": MODEL, **fields})
    assert status == 201, told
    where: str = f"/v1/conversations/{told['id']}"
    return where


def test_a_prompt_is_answered_whole_as_a_stream_and_from_the_cache(service: Service) -> None:
    status, whole = service.post("/generate", FRANCE)
    assert status == 200, whole
    assert "Paris" in whole["text"]
    assert (whole["tokens_generated"], whole["finish_reason"], whole["model_name"]) == (8, "length", MODEL)
    *texts, end = events_of(service.post("/generate/stream", FRANCE)[1])
    assert "".join(event["text"] for event in texts) == whole["text"]
    assert end["tokens_generated"] == 8
    cached = [service.post("/generate/cached", FRANCE)[1] for _ in range(2)]
    assert [one["cached"] for one in cached] == [False, True]
    assert {one["text"] for one in cached} == {whole["text"]}


def test_each_prompt_of_a_batch_has_its_own_answer_or_error(service: Service) -> None:
    too_long = "word " * 2 * service.get("/model_info")[1]["max_model_len"]
    prompts = [FRANCE["prompt"], too_long, *[f"{n} + 1 =" for n in range(30)]]
    status, told = service.post("/generate/batch", {"prompts": prompts, "max_tokens": 4, "temperature": 0})
    assert (status, told["succeeded"], told["failed"]) == (200, 31, 1)
    assert "Paris" in told["results"][0]["result"]["text"]
    assert told["results"][1]["error"]["code"] == "context_length_exceeded"
    assert [one["index"] for one in told["results"]] == list(range(32))


def test_a_conversation_that_outgrows_the_context_goes_on(service: Service) -> None:
    context = service.get("/model_info")[1]["max_model_len"]
    here = begun(service, system="You are a miller.")
    for turn in range(6):
        stream = turn % 2 == 1
        said = {"content": f"{turn}: " + "stone " * (context // 4), "max_tokens": 4, "stream": stream}
        status, told = service.post(f"{here}/messages", said)
        assert status == 200, told
        answer = events_of(told)[-1] if stream else told
        assert 0 < answer["usage"]["prompt_tokens"] <= context - 4
    assert answer["conversation"]["trimmed"] > 0
    messages = service.get(here)[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 6
    status, refused = service.post(f"{here}/messages", {"content": "stone " * context})
    assert (status, refused["error"]["code"]) == (400, "context_length_exceeded")


def test_posts_at_once_to_one_conversation_are_each_followed_by_their_answer(service: Service) -> None:
    here = begun(service)
    said = [{"content": f"Say {n}.", "max_tokens": 4, "stream": n % 2 == 1} for n in range(10)]
    with ThreadPoolExecutor(len(said)) as threads:
        answers = list(threads.map(lambda body: service.post(f"{here}/messages", body), said))
    assert [status for status, _ in answers] == [200] * len(said)
    messages = service.get(here)[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * len(said)
    assert {message["content"] for message in messages[::2]} == {body["content"] for body in said}
    for body, (_, told) in zip(said, answers, strict=True):
        streamed = events_of(told) if body["stream"] else []
        answer = "".join(event["choices"][0]["delta"].get("content") or "" for event in streamed if event["choices"])
        position = streamed[-1]["conversation"]["position"] if streamed else told["position"]
        question, reply = messages[position - 1 : position + 1]
        assert (question["content"], reply["content"]) == (body["content"], answer if streamed else told["content"])
