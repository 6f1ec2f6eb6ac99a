"""`docs/reference/errors.md`."""

from collections.abc import Iterator

from forebay.refusals import Refusal

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Errors

Every error that Forebay answers with has OpenAI's form, `{"error": {"message", "type", "param", "code"}}`, or on
`/v1/messages` Anthropic's, and an `x-request-id`. The official clients retry 408, 409, 429 and every status from 500
up, unless `x-should-retry` says otherwise; `retry-after` is 1 to 60 s.

| status | code | type | when, and what to do |
| --- | --- | --- | --- |
"""


def render() -> str:
    rows = [
        f"| {kind.status} | `{kind.code}` | `{kind.type}` | {' '.join((kind.__doc__ or '').split())} |"
        for kind in sorted(_all(Refusal), key=lambda kind: (kind.status, kind.code))
    ]
    return HEADER + "\n".join(rows) + "\n"


def _all(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for child in kind.__subclasses__():
        yield child
        yield from _all(child)
