"""What is printed: answers on standard output, notes and figures on standard error, so that a pipe gets answers.

On a terminal what a model wrote is shown without control characters: its text must not be able to move the cursor, set
the title or fill the clipboard. Into a pipe or a file it goes as it is.
"""

import io
import os
import re
import sys

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


def visible(text: str) -> str:
    """A text without what a terminal would obey."""
    return _CONTROL.sub("", text)


class Screen:
    """Standard output and standard error, each a terminal or not."""

    def __init__(self) -> None:
        self.out_is_terminal, self.err_is_terminal = sys.stdout.isatty(), sys.stderr.isatty()
        self._colours = "NO_COLOR" not in os.environ
        self._in_line = self._thinking = False

    @property
    def is_interactive(self) -> bool:
        """Whether somebody types and reads here."""
        return self.out_is_terminal and sys.stdin.isatty()

    def show(self, thought: str, said: str) -> None:
        """Print a piece of an answer as it comes; what a model thinks first is for a terminal only."""
        if thought and self.is_interactive:
            self._write(self._styled(visible(thought), _DIM), thought)
            self._thinking = True
        if said:
            if self._thinking:
                self._write("\n\n", "\n")
                self._thinking = False
            self._write(visible(said) if self.out_is_terminal else said, said)

    def end_line(self) -> None:
        """Let what comes next begin on a line of its own."""
        self._thinking = False
        if self._in_line:
            self._write("\n", "\n")

    def note(self, text: str) -> None:
        """Say something beside the answers."""
        self._tell(text, _DIM)

    def wrong(self, text: str) -> None:
        """Say what went wrong, on a line."""
        self._tell(f"forebay: {visible(text)}", _RED)

    def _tell(self, text: str, style: str) -> None:
        self.end_line()
        print(self._styled(text, style) if self.err_is_terminal else text, file=sys.stderr, flush=True)

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colours else text

    def _write(self, text: str, meant: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._in_line = not meant.endswith("\n")


def tolerate_bytes() -> None:
    """Take input that is no UTF-8, and print what the terminal cannot show, with marks in its place."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
