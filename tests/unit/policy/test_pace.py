"""How fast a batch goes, and which answers are a line's last."""

import pytest

from forebay.policy.pace import TRIES, Pace, Verdict, judge


def test_too_much_halves_what_is_asked_at_once_and_answers_bring_it_back() -> None:
    pace = Pace(16)
    pace.refused(5.0, 100.0)
    assert (pace.width, pace.wait_s(101.0)) == (8, 4.0)
    pace.refused(3.0, 101.0)  # by another line that was under way
    assert (pace.width, pace.wait_s(101.0)) == (8, 4.0)
    for _ in range(4):
        pace.refused(None, 200.0)
        assert pace.wait_s(200.0) == 1.0
    for now in (300.0, 400.0, 500.0, 600.0):
        pace.refused(1.0, now)
    assert pace.width == 1
    for _ in range(20):
        pace.answered()
    assert (pace.width, pace.wait_s(601.0)) == (16, 0.0)


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        (429, "rate_limit_exceeded", False),
        (429, "insufficient_quota", False),
        (503, "server_is_overloaded", True),
        (503, "engine_unavailable", False),
        (503, "draining", True),
    ],
)
def test_too_much_is_never_a_lines_end(status: int, code: str, asked: bool) -> None:
    assert judge(status, code, asked=asked, tries=1000) is Verdict.TOO_MUCH


@pytest.mark.parametrize(("status", "code"), [(500, "internal_error"), (502, "x"), (503, "engine_error"), (504, "x")])
def test_what_fails_at_an_engine_is_asked_a_few_times(status: int, code: str) -> None:
    assert judge(status, code, asked=True, tries=TRIES - 2) is Verdict.AGAIN
    assert judge(status, code, asked=True, tries=TRIES - 1) is Verdict.DONE


@pytest.mark.parametrize("status", [200, 400, 403, 404, 422])
def test_answers_and_what_the_line_itself_has_wrong_are_its_end(status: int) -> None:
    assert judge(status, "", asked=True, tries=0) is Verdict.DONE
