"""The official OpenAI client against the real engine, through Forebay."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.e2e.conftest import KEY, MODEL, Service

pytestmark = pytest.mark.engine

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def async_client(service: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def test_a_question_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=24)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, max_tokens=16)
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, max_tokens=16, stream=True
    ))  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_with_a_stream_where_it_is_asked_for(client: openai.OpenAI) -> None:
    *_, last = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens <= 5


async def test_the_asynchronous_client_streams_too(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8, stream=True)
    assert [chunk async for chunk in stream][-1].choices[0].finish_reason in ("length", "stop")


def test_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, stop=["\n\n\n"])
    assert answer.choices[0].text
    streamed = list(client.completions.create(model=MODEL, prompt="Once upon", max_tokens=8, stream=True))
    assert streamed[-1].choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice=choice,
        temperature=0,
        max_tokens=64,
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_an_answer_follows_a_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Make up a person."}],
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
        temperature=0,
        max_tokens=64,
    )
    person = json.loads(answer.choices[0].message.content or "")
    assert isinstance(person["age"], int)


def test_logprobs_and_two_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3, n=2, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert len((logprobs.content or [])[0].top_logprobs) == 3


def test_aliases_lead_to_the_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-3.5-turbo", messages=MESSAGES, max_tokens=2)
    assert answer.choices[0].message.content is not None
    assert [model.id for model in client.models.list()] == [MODEL, "gpt-3.5-turbo", "text-davinci-003"]
    assert client.models.retrieve("text-davinci-003").id == "text-davinci-003"


def test_the_responses_api(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8)
    assert answer.output_text
    events = list(client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=8, stream=True))
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_tokens_there_and_back(service: Service) -> None:
    _, tokens = service.post("/tokenize", {"model": MODEL, "prompt": "Hello, river"})
    assert tokens["count"] == len(tokens["tokens"])
    assert service.post("/detokenize", {"model": MODEL, "tokens": tokens["tokens"]})[1]["prompt"] == "Hello, river"


def test_embeddings_of_a_model_that_makes_none_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.embeddings.create(model=MODEL, input="x")
    assert refused.value.type == "invalid_request_error"


def test_an_unknown_model_a_wrong_key_and_too_much_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert unknown.value.request_id
    with pytest.raises(openai.AuthenticationError) as stranger:
        client.with_options(api_key="sk-wrong").chat.completions.create(model=MODEL, messages=MESSAGES)
    assert stranger.value.code == "invalid_api_key"
    with pytest.raises(openai.BadRequestError) as many:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, n=100)
    assert many.value.param == "n"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "river " * 3000}])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as answer:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1025)
    assert (answer.value.code, answer.value.param) == ("context_length_exceeded", "max_tokens")


def test_what_the_engine_finds_wrong_when_its_stream_has_begun_is_refused_and_not_tried_again(
    client: openai.OpenAI, service: Service
) -> None:
    before = service.figure("forebay_retries_total")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, logit_bias={"99999999": 1}, stream=True)
    assert (wrong.value.code, wrong.value.param) == ("invalid_value", "logit_bias")
    assert service.figure("forebay_retries_total") == before


@pytest.mark.parametrize("path", ["/invocations", "/pause", "/scale_elastic_ep", "/v1/load_lora_adapter", "/load"])
def test_the_engines_other_paths_are_out_of_reach(service: Service, path: str) -> None:
    assert service.post(path, {})[0] == 404
    assert service.get(path)[0] == 404
