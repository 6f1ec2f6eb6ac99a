"""What a call comes to: a `Result`, or the `GenerationError` that says why there is none."""

from dataclasses import dataclass
from typing import Any


class GenerationError(Exception):
    """A prompt has no answer. `status` and `code` are the gateway's; without an answer at all `status` is None.

    Codes of our own, with no status: `no_connection`, `connection_lost`, `timeout`, `invalid_answer`,
    `model_not_named`, `closed`.
    `retry_after_s` and `should_retry` are what the gateway said of asking again, which has been followed already.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry

    def __repr__(self) -> str:
        return f"<GenerationError {self.status or 'no answer'} {self.code}: {self}>"


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one prompt and of what was generated for it."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Result:
    """What one prompt came to; with an `error` it has no text.

    `choices` are the engine's own words on each answer (log-probabilities, what it stopped at); they are several where
    `n` asked for several, and `text` and `finish_reason` are those of the first. `usage` counts all of them; it is None
    where the engine did not tell it prompt by prompt.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    choices: tuple[dict[str, Any], ...] = ()
    error: GenerationError | None = None

    @property
    def tokens(self) -> int | None:
        """How many tokens were generated."""
        return self.usage.completion_tokens if self.usage else None
