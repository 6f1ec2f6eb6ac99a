"""Whether and when a prompt is asked for once more."""

from typing import Any

import pytest

from forebay.client.result import GenerationError
from forebay.client.retrying import is_of_one_prompt, is_too_much, read_retry_after, wait_s


def error(**fields: Any) -> GenerationError:
    return GenerationError("no", **fields)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(status: int) -> None:
    assert wait_s(error(status=status), 1, 0.0) == 0.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_stays_wrong_is_not(status: int) -> None:
    assert wait_s(error(status=status), 1, 0.0) is None


def test_the_gateways_own_word_goes_before_the_status() -> None:
    assert wait_s(error(status=503, should_retry=False), 1, 0.0) is None
    assert wait_s(error(status=400, should_retry=True), 1, 0.0) == 0.5


def test_it_is_never_asked_before_the_time_that_was_told() -> None:
    waits = [wait_s(error(status=429, retry_after_s=4.0), 1, random) for random in (0.0, 0.5, 1.0)]
    assert waits == [4.0, 4.5, 5.0]
    assert wait_s(error(status=429, retry_after_s=61.0), 1, 0.0) is None


def test_untold_the_wait_doubles_up_to_a_bound() -> None:
    assert [wait_s(error(status=500), tries, 0.0) for tries in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert wait_s(error(status=500), 3, 1.0) == 1.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert read_retry_after(value, 60.0) == seconds


@pytest.mark.parametrize("value", ["inf", "nan", "1e9"])
def test_a_time_that_never_comes_is_not_waited_for(value: str) -> None:
    assert wait_s(error(status=429, retry_after_s=read_retry_after(value, 0.0)), 1, 0.5) is None


def test_less_is_asked_at_once_after_429_and_503_alone() -> None:
    assert [status for status in (None, 400, 429, 500, 502, 503) if is_too_much(error(status=status))] == [429, 503]


def test_a_request_is_split_only_where_one_prompt_may_be_to_blame() -> None:
    assert is_of_one_prompt(error(status=400))
    assert is_of_one_prompt(error(status=413))
    assert is_of_one_prompt(error(status=400, param="prompt"))
    assert is_of_one_prompt(error(status=400, param="input_tokens"))
    assert is_of_one_prompt(error(status=400, param="max_tokens", code="context_length_exceeded"))
    assert not is_of_one_prompt(error(status=400, param="temperature"))
    assert not is_of_one_prompt(error(status=404))
    assert not is_of_one_prompt(error(status=503))
