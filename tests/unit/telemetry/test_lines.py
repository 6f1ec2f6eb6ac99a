"""A log line is one line and shows what is in it, whoever wrote what is in it."""

import json
import unicodedata

import pytest

from forebay.telemetry.lines import TextLines, as_json, plain

HOSTILE = {
    "newline": 'x\n{"level":"error"}',
    "return": "x\r\nlevel=error",
    "ansi": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "c1": "x\x9b31mred\x85next",
    "delete": "x\x7f\x08\x08y",
    "separators": "x\u2028y\u2029z",
    "bidi": "user\u202egnp.exe\u2066\u2069\u200f",
    "invisible": "a\u200b\u00ad\ufeff\u2060b\U000e0041",
    "emoji": "\U0001f469\u200d\U0001f4bb ok",
    "letters": "Grüße 你好 שלום",
}


def line(**fields: object) -> dict[str, object]:
    return {"time": 0.0, "level": "info", "logger": "n", "message": "m", **fields}


@pytest.mark.parametrize("name", HOSTILE)
def test_json_reads_back_as_it_was_and_holds_nothing_that_acts(name: str) -> None:
    written = as_json(line(field=HOSTILE[name], message=HOSTILE[name]))
    assert written.count(b"\n") == 1
    told = json.loads(written)
    assert told["field"] == told["message"] == HOSTILE[name]
    acting = [one for one in written.decode()[:-1] if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cn")]
    assert acting == []


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("colour", [False, True])
def test_text_holds_nothing_that_acts_but_our_own_colours(name: str, colour: bool) -> None:
    written = TextLines(terminal=True, colour=colour)(line(field=HOSTILE[name], message=HOSTILE[name])).decode()
    ours = ("\x1b[32m", "\x1b[2m", "\x1b[0m") if colour else ()
    for one in ours:
        assert one in written
        written = written.replace(one, "")
    assert written.count("\n") == 1
    assert written[:-1].isprintable()


def test_letters_of_all_languages_are_told_as_they_are() -> None:
    assert plain(HOSTILE["letters"]) == HOSTILE["letters"]
    assert HOSTILE["letters"].encode() in as_json(line(field=HOSTILE["letters"]))


def test_a_value_cannot_pass_for_another_field() -> None:
    written = TextLines()(line(path='x" level=error', empty="")).decode()
    assert written.endswith('path="x\\" level=error" empty=""\n')


def test_half_a_surrogate_pair_is_told_and_breaks_nothing() -> None:
    assert json.loads(as_json(line(file="a\udcff"))) == line(file="a\\udcff")
    assert b"file=a\\udcff" in TextLines()(line(file="a\udcff"))


def test_an_exceptions_lines_stand_behind_a_mark_that_no_line_of_ours_begins_with() -> None:
    exception = "Traceback\n  File\n1970-01-01 00:00:00 ERROR forged\x1b[0m"
    first, *behind = TextLines()(line(level="error", exception=exception)).decode().splitlines()
    assert first.endswith("ERROR   m")
    assert [one[:10] for one in behind] == ["        | "] * 3
    assert "\x1b" not in "".join(behind)


def test_what_is_no_number_is_no_colour_of_a_status() -> None:
    coloured = TextLines(terminal=True, colour=True)
    assert b"\x1b[32m200" in coloured(line(status=200))
    assert b"\x1b[33m404" in coloured(line(status=404))
    assert b"\x1b[31m503" in coloured(line(status=503))
