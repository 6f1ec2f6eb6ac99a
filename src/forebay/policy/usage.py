"""How much was used: counts by tenant, key and model, summed as requests end.

A tally is filled on the event loop and taken from it there, so that no lock is needed and no count falls in between.
What is taken is a batch: it may be joined with others in any order, and sums are all that is ever made of it.
"""

import msgspec

from forebay.policy.auth import Principal
from forebay.wire.usage import Usage

MOST_ENTRIES = 100_000


class Counts(msgspec.Struct, array_like=True):
    """The figures of one entry. `prompt_tokens` includes `cached_tokens`, `completion_tokens` includes the estimated.

    Estimated are those of streams that ended before the engine told its count: the events delivered. `replayed_tokens`
    are prompt and completion tokens of answers out of the response cache, which are in no other figure.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    replayed_tokens: int = 0

    def add(self, other: "Counts") -> None:
        for name in FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


FIELDS = Counts.__struct_fields__
Entry = tuple[str, str, str, str]  # day (UTC, as 2030-01-31), tenant, key id, model
Entries = dict[Entry, Counts]


class Tally:
    """What has been used since it was last taken."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], Counts] = {}

    def __repr__(self) -> str:
        return f"<Tally {len(self._counts)} entries>"

    def add(
        self, principal: Principal, model: str, usage: Usage | None, events: int, *, failed: bool, replayed: bool
    ) -> None:
        """A request is over; `usage` is the engine's own count, `events` what was delivered where there is none. An
        answer that was `replayed` from the cache took no engine's time."""
        key = (principal.tenant, principal.key_id, model)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = Counts()
        counts.requests += 1
        if replayed:
            counts.replayed_tokens += usage.prompt_tokens + usage.completion_tokens if usage is not None else 0
        elif usage is not None:
            counts.prompt_tokens += usage.prompt_tokens
            counts.completion_tokens += usage.completion_tokens
            if usage.cached_tokens:
                counts.cached_tokens += usage.cached_tokens
        elif events:
            counts.completion_tokens += events
            counts.estimated_tokens += events
        if failed:
            counts.errors += 1

    def take(self, day: str) -> Entries:
        """All of it, as of one day; the tally is empty then."""
        counts, self._counts = self._counts, {}
        return {(day, *key): value for key, value in counts.items()}


def join(entries: Entries, more: Entries) -> None:
    """Add more entries to some."""
    for entry, counts in more.items():
        if (there := entries.get(entry)) is not None:
            there.add(counts)
        else:
            entries[entry] = msgspec.structs.replace(counts)


def cut(entries: Entries, most: int = MOST_ENTRIES) -> int:
    """Drop the newest entries beyond the most that are kept; return how many requests they stood for."""
    surplus = list(entries)[most:]
    return sum(entries.pop(entry).requests for entry in surplus)
