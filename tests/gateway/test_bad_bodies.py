"""Bodies that are wrong: each is told what is, costs nothing, reaches no engine, and the connection goes on."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.store.usage import Question, sums
from tests.gateway.calls import AUTH, CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import RawConnection, Response, connect
from tests.store.databases import made

CANARY = "canary-of-a-prompt"
TOKENS = 10**6


def with_fields(text: str) -> bytes:
    """A chat that is right but for some members, as they are written."""
    return json.dumps(chat_body(user=CANARY)).encode()[:-1] + b"," + text.encode() + b"}"


NOT_JSON = {
    "empty": b"",
    "no json": b"{" + CANARY.encode(),
    "cut off": with_fields('"x":1')[:-1],
    "a list": b"[" + with_fields('"x":1') + b"]",
    "a text": b'"canary-of-a-prompt"',
    "a number": b"7",
    "null": b"null",
    "byte order mark": b"\xef\xbb\xbf" + with_fields('"x":1'),
    "utf-16": with_fields('"x":1').decode().encode("utf-16"),
    "utf-32": with_fields('"x":1').decode().encode("utf-32-le"),
    "latin-1": with_fields('"x":"é"').decode().encode("latin-1"),
    "latin-1 in what is read": with_fields('"preset":"é"').decode().encode("latin-1"),
    "overlong utf-8": with_fields('"x":"?"').replace(b"?", b"\xc0\xaf"),
    "a surrogate in utf-8": with_fields('"x":"?"').replace(b"?", b"\xed\xa0\x80"),
    "lone surrogate": with_fields(r'"x":"\ud800"'),
    "low surrogate": with_fields(r'"x":"a\udc00 b"'),
    "surrogates in the wrong order": with_fields(r'"x":"\ude00\ud83d"'),
    "lone surrogate as a name": with_fields(r'"\ud800":1'),
    "NUL": with_fields('"x":"\0"'),
    "NUL behind": with_fields('"x":1') + b"\0",
    "line feed in a text": with_fields('"x":"a\nb"'),
    "trailing": with_fields('"x":1') + b" x",
    "two objects": with_fields('"x":1') * 2,
    "trailing comma": with_fields('"x":[1,]'),
    "comment": with_fields('"x":1/*canary-of-a-prompt*/'),
    "single quotes": with_fields("'x':1"),
    "NaN": with_fields('"temperature":NaN'),
    "Infinity": with_fields('"temperature":Infinity'),
    "-Infinity": with_fields('"x":-Infinity'),
    "leading zero": with_fields('"max_tokens":01'),
    "hexadecimal": with_fields('"max_tokens":0x1'),
    "1,000 arrays deep": with_fields(f'"x":{"[" * 1000}{"]" * 1000}'),
    "1,000 objects deep": with_fields('"x":' + '{"x":' * 1000 + "1" + "}" * 1000),
    "100,000 deep": b"[" * 100_000,
    "65 deep": with_fields(f'"x":{"[" * 64}{"]" * 64}'),
    "10,000 objects": with_fields(f'"x":[{",".join(["{}"] * 10_000)}]'),
    "model twice": with_fields('"model":"fake-model"'),
    "model twice, once escaped": with_fields(r'"mod\u0065l":"fake-model"'),
    "messages twice": with_fields('"messages":[]'),
    "max_tokens twice": with_fields('"max_tokens":1,"max_tokens":100000'),
    "stream twice": with_fields('"stream":false,"stream":null'),
    "what steers the engine twice": with_fields('"priority":1,"priority":null'),
    "an unknown name twice": with_fields('"x":1,"x":1'),
    "usage asked for twice": with_fields('"stream_options":{"include_usage":true,"include_usage":false}'),
}
WRONG_VALUES = {
    "n": ["0", "-1", "9", "1e400", "1.5", '"2"', "true", "[]", "1" + "0" * 5000],
    "best_of": ["0", "-1", "9", '"2"'],
    "logprobs": ["-1", "21", "2.5", '"2"', "9" * 40],
    "top_logprobs": ["-1", "21", "0.5", "true", "9" * 40],
    "prompt_logprobs": ["-1", "21", "{}"],
    "max_tokens": ["-1", "1000001", "9" * 40, "1.5", "1e3", "true", '"5"', "1e999"],
    "max_completion_tokens": ["0", "-1", "1000001", '"canary-of-a-prompt"'],
    "max_output_tokens": ["0", "1000001", "[1]"],
    "temperature": ["1e999", "-1e999", "[]", "{}", "1" + "0" * 5000],
    "top_p": ["1e999", "[0.5]"],
    "seed": ["1e999", "1" + "0" * 5000, '{"canary-of-a-prompt":1}'],
    "stop": ["1", '["a",1]', json.dumps(["a"] * 17)],
    "stream": ["1", '"true"'],
    "stream_options": ["1", "[]", '"x"'],
    "tool_choice": ['1e999,"tools":[{}]'],
    "priority": ["-1", "null"],
    "request_id": ['"x"'],
    "cache_salt": ['"x"'],
    "kv_transfer_params": ["{}"],
    "chat_template": ['"{{ canary }}"'],
}
WRONG_MODELS = {
    "none": (b'{"messages":[]}', 400, "invalid_value"),
    "a number": (b'{"model":1,"messages":[]}', 400, "invalid_value"),
    "empty": (b'{"model":"","messages":[]}', 404, "model_not_found"),
    "unknown": (b'{"model":"gpt-9","messages":[]}', 404, "model_not_found"),
    "very long": (b'{"model":"' + b"m" * 100_000 + b'","messages":[]}', 404, "model_not_found"),
    "not printable": (rb'{"model":"\u0000\u001b[31m\r\nx: y\ud83d\ude00","messages":[]}', 404, "model_not_found"),
}


async def post(raw: RawConnection, body: bytes, path: str = CHAT) -> Response:
    await raw.request("POST", path, body, AUTH)
    return await raw.read_response("POST")


async def refused(raw: RawConnection, body: bytes, status: int, code: str, param: str | None) -> None:
    """A body is refused so; and the next request on the connection answered."""
    answer = await post(raw, body)
    error = error_of(answer)
    told = (answer.status, error["type"], error["code"], error["param"])
    assert told == (status, "invalid_request_error", code, param), error["message"]
    assert len(answer.body) < 1024
    assert "canary" not in answer.body.decode()
    assert answer.header("connection") is None
    answer = await post(raw, json.dumps(chat_body(max_tokens=2)).encode())
    assert answer.status == 200
    assert answer.json()["usage"]["completion_tokens"] == 2


def nothing_is_left(running: Running, engine: FakeEngine, good: int) -> None:
    """No request is under way, and only the good ones were sent on."""
    assert len(engine.calls(CHAT)) == good
    assert engine.violations == []
    assert running.gateway.pipeline.running == set()
    assert running.figures()["forebay_active_requests"] == 0
    assert running.gateway.pipeline.admission.queued == 0


LIMITS: dict[str, Any] = {"key_limits": {"concurrency": 1, "tokens_per_minute": TOKENS}, "max_output_tokens": TOKENS}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
async def test_what_is_not_one_json_object_is_refused_as_such(body: bytes, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **LIMITS) as running, connect(running.url) as raw:
        await refused(raw, body, 400, "invalid_json", None)
        nothing_is_left(running, engine, good=1)


@pytest.mark.parametrize("name", WRONG_VALUES)
async def test_a_wrong_value_is_refused_by_its_name(name: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **LIMITS) as running, connect(running.url) as raw:
        for value in WRONG_VALUES[name]:
            await refused(raw, with_fields(f'"{name}":{value}'), 400, "invalid_value", name)
        nothing_is_left(running, engine, good=len(WRONG_VALUES[name]))


@pytest.mark.parametrize(("body", "status", "code"), WRONG_MODELS.values(), ids=WRONG_MODELS.keys())
async def test_a_model_that_is_none_is_refused(
    body: bytes, status: int, code: str, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **LIMITS) as running, connect(running.url) as raw:
        await refused(raw, body, status, code, "model")
        nothing_is_left(running, engine, good=1)


@pytest.mark.parametrize(
    "text",
    [
        '"n":1,"stop":["a"],"max_tokens":2',
        '"temperature":1E-2,"seed":9223372036854775807,"max_tokens":2',
        r'"x":"\ud83d\ude00 \u0000 {\"model\":1,\"model\":2}","max_tokens":2',
        '"tools":[{"type":"function","function":{"name":"f","parameters":{"model":{"model":{}}}}}],"max_tokens":2',
        '"a:b":":::","model:":"::","max_tokens":2',
        f'"x":{"[" * 63}{"]" * 63},"max_tokens":2',
        f'"x":[{",".join(["1"] * 100_000)}],"max_tokens":2',
        '"stream_options":null,"stop":null,"n":null,"max_tokens":2',
    ],
    ids=lambda text: text[:30],
)
async def test_what_only_looks_wrong_is_sent_on_byte_for_byte(text: str, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **LIMITS) as running, connect(running.url) as raw:
        assert (await post(raw, with_fields(text))).status == 200
        assert [call.raw_body for call in engine.calls(CHAT)] == [with_fields(text)]


async def test_every_endpoint_refuses_alike_and_no_limit_is_charged(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/usage.db"
    database = made(url)
    paths = ("/v1/completions", "/v1/embeddings", "/v1/responses", "/tokenize", "/detokenize", CHAT)
    flags = {**LIMITS, "database_url": SecretStr(url), "usage_flush_s": 0.1}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, connect(running.url) as raw:
        for path in paths:
            for body in NOT_JSON.values():
                answer = await post(raw, body, path)
                assert (answer.status, error_of(answer)["code"]) == (400, "invalid_json")
        answer = await post(raw, json.dumps(chat_body(max_tokens=2)).encode())
        assert answer.status == 200
        spent = answer.json()["usage"]["total_tokens"]
        again = await post(raw, json.dumps(chat_body(max_tokens=2)).encode())
        left = TOKENS - int(again.header("x-ratelimit-remaining-tokens") or 0)
        assert spent <= left < 4 * spent + 100
        nothing_is_left(running, engine, good=2)
        await running.stop()
        assert CANARY not in running.log_file.read_text()
    (line,) = sums(database, Question(by=()), {})
    database.close()
    assert (line.counts.requests, line.counts.errors) == (2 + len(paths) * len(NOT_JSON), len(paths) * len(NOT_JSON))
    assert line.counts.completion_tokens == 4
    assert line.counts.prompt_tokens == engine.prompt_tokens


async def test_anthropics_form_says_the_same(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, connect(running.url) as raw:
        for body in (*NOT_JSON.values(), with_fields('"max_tokens":-1')):
            answer = await post(raw, body, "/v1/messages")
            assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
            assert "canary" not in answer.body.decode()
        assert engine.calls("/v1/messages") == []
