import pytest

from forebay.wire.headers import go_duration


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, b"0s"),
        (-1.0, b"0s"),
        (0.0111, b"12ms"),
        (1.0, b"1s"),
        (59.5, b"59.5s"),
        (60.5, b"1m0.5s"),
        (360.0, b"6m0s"),
        (3600.0, b"1h0m0s"),
    ],
)
def test_times_are_written_as_go_writes_them(seconds: float, told: bytes) -> None:
    assert go_duration(seconds) == told
