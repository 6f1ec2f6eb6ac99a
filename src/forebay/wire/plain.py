"""JSON that can be read in one way only: one object in UTF-8, no name twice at any depth, no NaN.

For what is read seldom and must not be mistaken: tokens, key sets, keys to import, what administrators send. Bodies on
their way to engines have cheaper checks; see `wire/shape.py`.
"""

import json
from typing import Any

MOST_DIGITS = 400  # more than any number that a float can hold has before its point


def plain_object(text: bytes) -> dict[str, Any]:
    """The object that a text holds. Raises ValueError, with words that do not repeat the text."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_once, parse_int=_whole, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except json.JSONDecodeError as wrong:
        raise ValueError(f"not valid JSON (at character {wrong.pos + 1})") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
