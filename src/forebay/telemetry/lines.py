"""A log line's fields → bytes: JSON, or text for people. A line is one line, and shows what is in it.

Whatever could end a line, move a cursor, colour or reorder what is seen, or be invisible is written as an escape: in
JSON one that a parser reads back to what it was. Only our own colours are real.
"""

import re
import time
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(enc_hook=str)
# DEL and C1 controls (one of which is a terminal's CSI), marks that reorder text, line separators, invisible marks.
_UNSEEN = re.compile(
    "[\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_QUOTED = re.compile(r"[\s\"=]|^$")
_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "1;31", "CRITICAL": "1;31"}
DIM = "2"
DEL = 0x7F


def as_json(line: Any) -> bytes:
    """One line of JSON."""
    try:
        data = _encoder.encode(line)
    except UnicodeEncodeError:  # half a surrogate pair, as file names may have it
        data = _encoder.encode(_repaired(line))
    if data.isascii() and DEL not in data:
        return data + b"\n"
    return _UNSEEN.sub(_json_escape, data.decode()).encode() + b"\n"


def _json_escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_repaired(key): _repaired(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_repaired(one) for one in value]
    if isinstance(value, msgspec.Struct):
        return _repaired(msgspec.to_builtins(value))
    return value


class TextLines:
    """Lines for people. On a terminal the time of day will do; colours are for terminals that want them."""

    def __init__(self, *, terminal: bool = False, colour: bool = False) -> None:
        self._clock = "%H:%M:%S" if terminal else "%Y-%m-%d %H:%M:%S"
        self._colour = colour

    def __call__(self, line: Any) -> bytes:
        fields = dict(line) if isinstance(line, dict) else msgspec.to_builtins(line)
        clock = time.strftime(self._clock, time.localtime(fields.pop("time")))
        level, message = fields.pop("level").upper(), plain(fields.pop("message"))
        fields.pop("logger", None)
        exception = fields.pop("exception", "")
        words = [self._in(DIM, clock), self._in(_COLOURS.get(level, ""), f"{level:<7}"), message]
        words += [self._in(DIM, f"{plain(name)}=") + self._value(name, value) for name, value in fields.items()]
        behind = "".join(f"        | {plain(part)}\n" for part in str(exception).splitlines())
        return f"{' '.join(words)}\n{behind}".encode("utf-8", "backslashreplace")

    def _value(self, name: str, value: Any) -> str:
        text = plain(value)
        if _QUOTED.search(text):
            text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if name == "status" and isinstance(value, int):
            return self._in("31" if value >= 500 else "33" if value >= 400 else "32", text)
        return self._in("31", text) if name == "error" else text

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


def plain(value: Any) -> str:
    """A value as text on one line, with nothing in it that is not seen."""
    text = str(value)
    if text.isprintable() and not _UNSEEN.search(text):
        return text
    return "".join(one if one.isprintable() and not _UNSEEN.match(one) else _escape(one) for one in text)


def _escape(one: str) -> str:
    return " " if one == "\u00a0" else one.encode("unicode_escape").decode("ascii")
