"""A batch's file of requests: checked once, before any is asked, and then read a few at a time."""

import asyncio
from collections.abc import Container
from pathlib import Path

from forebay.wire.batch_lines import WrongLine, read_line

MOST_ERRORS = 100
_AT_ONCE, _AT_ONCE_BYTES = 64, 1 << 20


def check(
    path: Path, endpoint: str | None = None, most_lines: int | None = None, most_bytes: int = 1 << 30
) -> tuple[int, list[dict[str, object]]]:
    """How many requests there are, and what is wrong with them, as OpenAI tells it. Empty lines are none."""
    errors: list[dict[str, object]] = []
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, text in enumerate(iter(lambda: file.readline(most_bytes + 1), b""), 1):
            if not text.strip():
                continue
            try:
                if len(text) > most_bytes:
                    raise WrongLine("line_too_long", f"This line is longer than {most_bytes} bytes.")
                name = read_line(text, endpoint).custom_id
                if name in seen:
                    raise WrongLine("duplicate_custom_id", "Another line has this custom_id.", "custom_id")
                if len(seen) == most_lines:
                    raise WrongLine("too_many_lines", f"A batch has at most {most_lines} requests.")
                seen.add(name)
            except WrongLine as wrong:
                errors.append({"code": wrong.code, "message": str(wrong), "line": number, "param": wrong.field})
                if len(errors) == MOST_ERRORS or wrong.code in ("too_many_lines", "line_too_long"):
                    break
    if not seen and not errors:
        errors.append(
            {"code": "empty_file", "message": "There is no request in the file.", "line": None, "param": None}
        )
    return len(seen), errors


class Lines:
    """The requests that are not finished, each with its line's number."""

    def __init__(self, path: Path, finished: Container[int]) -> None:
        self._file = path.open("rb")
        self._finished = finished
        self._number = 0
        self._read: list[tuple[int, bytes]] = []

    async def next(self) -> tuple[int, bytes] | None:
        """The next one; None at the end."""
        if not self._read:
            self._read = (await asyncio.to_thread(self.some))[::-1]
        return self._read.pop() if self._read else None

    def some(self) -> list[tuple[int, bytes]]:
        """Some more of them; none at the end."""
        found: list[tuple[int, bytes]] = []
        size = 0
        while len(found) < _AT_ONCE and size < _AT_ONCE_BYTES and (text := self._file.readline()):
            self._number += 1
            if text.strip() and self._number not in self._finished:
                found.append((self._number, text))
                size += len(text)
        return found

    def close(self) -> None:
        self._file.close()
