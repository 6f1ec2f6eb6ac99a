"""How a refusal is said, to whom."""

import json

import pytest

from forebay.gateway.errors import error_body, error_events, error_headers, refusal_from_engine
from forebay.gateway.routes import Dialect, find_route
from forebay.refusals import EngineUnavailable, ModelNotFound, RateLimited, Unauthorized, UpstreamTimeout

REFUSAL = ModelNotFound("no such model", param="model")


def test_each_dialect_has_its_form() -> None:
    openai = json.loads(error_body(REFUSAL, Dialect.OPENAI, "r1"))
    assert openai == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    anthropic = json.loads(error_body(REFUSAL, Dialect.ANTHROPIC, "r1"))
    assert anthropic == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "no such model"},
        "request_id": "r1",
    }


def test_each_dialect_ends_a_broken_stream_its_own_way() -> None:
    assert error_events(REFUSAL, Dialect.OPENAI, 0).endswith(b"\n\ndata: [DONE]\n\n")
    assert error_events(REFUSAL, Dialect.ANTHROPIC, 0).startswith(b"event: error\ndata: ")
    responses = error_events(REFUSAL, Dialect.RESPONSES, 7)
    assert json.loads(responses.split(b"data: ")[1])["sequence_number"] == 7


@pytest.mark.parametrize(("seconds", "told"), [(0.0, b"1"), (0.2, b"1"), (7.2, b"8"), (3600.0, b"60")])
def test_retry_after_is_whole_seconds_from_1_to_60(seconds: float, told: bytes) -> None:
    assert error_headers(RateLimited("x", retry_after_s=seconds)) == b"retry-after: " + told + b"\r\n"


def test_those_that_are_refused_together_for_want_of_an_engine_do_not_come_back_together() -> None:
    told = {error_headers(EngineUnavailable("x", retry_after_s=5)) for _ in range(500)}
    assert told == {b"retry-after: %d\r\n" % seconds for seconds in range(6, 11)}


def test_headers_say_what_clients_act_on() -> None:
    assert error_headers(Unauthorized("x")) == b"www-authenticate: Bearer\r\n"
    assert error_headers(UpstreamTimeout("x", should_retry=False)) == b"x-should-retry: false\r\n"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'{"error": 7}', b'{"detail": [{"loc": 1}]}', b"[" * 9999]
)
def test_whatever_an_engine_says_becomes_an_error_of_ours(body: bytes) -> None:
    refusal = refusal_from_engine(400, body)
    assert (refusal.status, refusal.code) == (400, "invalid_value")
    assert refusal.message


def test_an_engines_words_are_passed_on_only_where_the_caller_can_act_on_them() -> None:
    body = json.dumps({"error": {"message": "secret path /x", "param": "n", "code": 400}}).encode()
    assert (refusal_from_engine(400, body).message, refusal_from_engine(400, body).param) == ("secret path /x", "n")
    for status in (401, 500, 502, 503, 504):
        assert "secret" not in refusal_from_engine(status, body).message


@pytest.mark.parametrize(
    ("message", "param", "told"),
    [
        ("This model's maximum context length is 9 tokens. However, your prompt", "input_tokens", "messages"),
        ("This model's maximum context length is 9 tokens. However, your prompt", "input_text", "messages"),
        ("Input length (10) exceeds model's maximum context length (9).", None, "messages"),
        ("The decoder prompt (length 10) is longer than the maximum model length of 9.", None, "messages"),
        ("The engine prompt length 9 exceeds the max_model_len 9. Please reduce prompt.", None, "messages"),
        ("max_tokens=10 cannot be greater than max_model_len=9.", "max_tokens", "max_tokens"),
    ],
)
def test_whatever_an_engine_says_of_its_context_has_one_code_and_a_parameter_of_the_callers(
    message: str, param: str | None, told: str
) -> None:
    """C11."""
    body = json.dumps({"error": {"message": message, "param": param, "code": 400}}).encode()
    refusal = refusal_from_engine(400, body, "messages")
    assert (refusal.code, refusal.param) == ("context_length_exceeded", told)


def test_how_a_prompt_is_to_be_cut_is_no_question_of_its_length() -> None:
    message = "truncate_prompt_tokens=5000 cannot be greater than max_model_len = 1024."
    body = json.dumps({"error": {"message": message, "param": "truncate_prompt_tokens", "code": 400}}).encode()
    assert refusal_from_engine(400, body, "prompt").code == "invalid_value"


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        (b"POST", b"/v1/chat/completions", "chat_completions"),
        (b"POST", b"/v1/messages?beta=true", "messages"),
        (b"GET", b"/v1/responses/resp_1", "responses_get"),
        (b"GET", b"/v1/responses/resp_1?stream=true", "responses_get"),
        (b"POST", b"/v1/responses/resp_1/cancel", "responses_cancel"),
        (b"GET", b"/v1/chat/completions", None),
        (b"POST", b"/v1/chat/completions/", None),
        (b"POST", b"/v1/%63hat/completions", None),
        (b"POST", b"//v1/chat/completions", None),
        (b"POST", b"/V1/chat/completions", None),
        (b"GET", b"/v1/responses/", None),
        (b"GET", b"/v1/responses/../models", None),
        (b"GET", b"/v1/responses/a/b", None),
        (b"GET", b"/v1/responses/a?x=\x01", None),
        (b"DELETE", b"/v1/responses/a", None),
        (b"POST", b"/invocations", None),
    ],
)
def test_only_the_tables_paths_are_relayed(method: bytes, target: bytes, name: str | None) -> None:
    route = find_route(method, target)
    assert (route.name if route else None) == name
