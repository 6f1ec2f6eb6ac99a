"""Once more? As the gateway says, and as the official OpenAI clients would; never what has been answered.

`x-should-retry` decides where it is said; else 408, 409, 429 and every status from 500 up are asked again. A connection
that did not come about or was lost is too. A time-out is not: the caller's own patience is over.

The wait is what `retry-after` says and a little more, at random, so that callers who were refused together do not come
back together; more than a minute is not waited for. Where nothing is said it doubles from half a second up to eight
seconds, less up to a half at random. Pure: the random number is an argument.
"""

from email.utils import parsedate_to_datetime

from forebay.client.result import GenerationError

FIRST_WAIT_S = 0.5
MOST_WAIT_S = 8.0
MOST_TOLD_S = 60.0
JITTER = 0.25  # of what was told


def wait_s(error: GenerationError, tries: int, random: float) -> float | None:
    """How long to wait after so many tries (1 is the first), or None: the error stands. `random` is from 0 to 1."""
    if not _may_be_repeated(error):
        return None
    if (told := error.retry_after_s) is not None:
        return told * (1 + JITTER * random) if told <= MOST_TOLD_S else None
    return min(FIRST_WAIT_S * 2.0 ** min(tries - 1, 10), MOST_WAIT_S) * (1 - random / 2)


def is_too_much(error: GenerationError) -> bool:
    """Whether less should be asked at once from now on."""
    return error.status in (429, 503)


def is_of_one_prompt(error: GenerationError) -> bool:
    """Whether a request may have been refused for one of its prompts, rather than for what all of them share."""
    if error.status not in (400, 413, 422):
        return False
    of_all = error.param is not None and not error.param.startswith(("prompt", "input"))
    return error.code == "context_length_exceeded" or not of_all


def read_retry_after(value: str, wall: float) -> float | None:
    """Seconds from a `retry-after` header, which has seconds or a date; None where it has neither."""
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - wall, 0.0)
    except ValueError:
        return None


def _may_be_repeated(error: GenerationError) -> bool:
    if error.should_retry is not None:
        return error.should_retry
    return error.status is not None and (error.status in (408, 409, 429) or error.status >= 500)
