"""`docs/reference/errors.md`."""

from collections.abc import Iterator

from forebay.gateway.errors import anthropic_type
from forebay.refusals import Refusal

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Errors

Every error that Forebay answers with has OpenAI's form, `{"error": {"message", "type", "param", "code"}}`, or on
`/v1/messages` Anthropic's, and an `x-request-id`. Where a stream has begun, the same error comes as its last event.

The official clients try again by themselves after 408, 409, 429 and every status from 500 up, unless `x-should-retry`
says otherwise; `retry-after` is 1 to 60 s. "Retried" says what they do.

| status | code | type | Anthropic's type | retried | when, and what to do |
| --- | --- | --- | --- | --- | --- |
"""

FOOTER = """
One more code is never sent, and found in the access log and in `forebay_errors_total` alone: `client_closed_request`,
with status 499. The client left before its answer was complete.
"""

Row = tuple[int, str, type[Refusal], str]


def render() -> str:
    return HEADER + "".join(map(_line, sorted(rows(), key=lambda row: row[:2]))) + FOOTER


def rows() -> Iterator[Row]:
    """Each code that can be sent: status, code, the class that sends it, and what it means."""
    for kind in _all(Refusal):
        yield kind.status, kind.code, kind, " ".join((kind.__doc__ or "").split())
        if "also" in vars(kind):
            yield from ((kind.status, code, kind, meaning) for code, meaning in kind.also.items())


def retried(kind: type[Refusal]) -> bool:
    """Whether the official clients ask again by themselves."""
    return kind.should_retry if kind.should_retry is not None else kind.status in (408, 409, 429) or kind.status >= 500


def _line(row: Row) -> str:
    status, code, kind, meaning = row
    again = "yes" if retried(kind) else "no"
    return f"| {status} | `{code}` | `{kind.type}` | `{anthropic_type(status)}` | {again} | {meaning} |\n"


def _all(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for child in kind.__subclasses__():
        yield child
        yield from _all(child)
