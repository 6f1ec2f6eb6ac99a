"""A chat at a terminal, or through a pipe, with a running gateway.

A line is a question, or a command where it begins with `/`; three double quotes begin and end a question of several
lines. Ctrl-C stops an answer and not the program; what had been said of it stays in the conversation.
"""

import contextlib
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

from forebay.asking import NoAnswer
from forebay.talk.commands import NotDone, Talk, obey
from forebay.talk.heard import Heard
from forebay.talk.screen import Screen

with contextlib.suppress(ImportError):  # it gives `input` its editing, and the lines before
    import readline  # noqa: F401

Ask = Callable[[dict[str, Any]], Generator[dict[str, Any], None, None]]  # raises `NoAnswer`
PROMPT, MORE, QUOTES = "> ", "… ", '"""'


class Session:
    """Questions and commands, until /quit or the end of the input. `failed` says whether any came to nothing."""

    def __init__(self, ask: Ask, screen: Screen, talk: Talk, *, show_stats: bool) -> None:
        self._ask = ask
        self._screen = screen
        self._talk = talk
        self._show_stats = show_stats
        self.failed = False

    def run(self) -> None:
        while not self._talk.over:
            try:
                text = self._read()
                if text is None:
                    break
                self._take(text)
            except KeyboardInterrupt:
                self._screen.note("\n(/quit or Ctrl-D leaves)")

    def _read(self) -> str | None:
        """The next question or command; None at the end of the input."""
        text = self._line(PROMPT)
        while text is not None and text.startswith(QUOTES) and not text[len(QUOTES) :].endswith(QUOTES):
            if (line := self._line(MORE)) is None:
                break
            text += "\n" + line
        return text

    def _line(self, prompt: str) -> str | None:
        try:
            return input(prompt if self._screen.is_interactive else "")
        except EOFError:
            if self._screen.is_interactive:
                self._screen.note("")  # the shell's prompt goes on a line of its own
            return None

    def _take(self, text: str) -> None:
        try:
            if text.startswith("/"):
                if told := obey(self._talk, text):
                    self._screen.note(told)
            elif question := text.removeprefix(QUOTES).removesuffix(QUOTES).strip():
                self._turn(question)
        except (NotDone, NoAnswer) as wrong:
            self._screen.wrong(str(wrong))
            self.failed = True

    def _turn(self, question: str) -> None:
        """Ask, print the answer as it comes, and remember both. Raises `NoAnswer`, and then remembers nothing."""
        heard = Heard(monotonic())
        try:
            self._listen(heard, question)
        except KeyboardInterrupt:
            self._screen.note("(stopped)")
        self._screen.end_line()
        self._remember(heard, question)

    def _listen(self, heard: Heard, question: str) -> None:
        body: dict[str, Any] = {"model": self._talk.model, "messages": self._talk.conversation.messages(question)}
        body |= {"stream_options": {"include_usage": True}, **self._talk.sampling()}
        with contextlib.closing(self._ask(body)) as events:
            for event in events:
                self._screen.show(*heard.take(event, monotonic()))

    def _remember(self, heard: Heard, question: str) -> None:
        if heard.first is None:
            return
        self._talk.heard.append(heard)
        if heard.text:
            self._talk.conversation.turns.append((question, heard.text))
        if self._show_stats:
            self._screen.note(f"  {heard.in_words()}")
