"""What a source of replicas is: it observes where engines are, and tells the whole set whenever it has changed.

Sources fail static: while one cannot look, what it told last stands, and only its `outage` shows it.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from forebay.policy.routing import DEFAULT_GROUP
from forebay.upstream.pool import Address

log = logging.getLogger("forebay.replicas")

MAX_ENDPOINTS = 4096


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine is. Its name, a URL, is what counts: sources that name the same URL have found one replica.

    `group` tells versions of a model apart.
    """

    name: str
    address: Address = field(compare=False)
    group: str = field(compare=False, default=DEFAULT_GROUP)

    @classmethod
    def at(cls, address: Address, group: str = DEFAULT_GROUP) -> "Endpoint":
        return cls(str(address), address, group)


def split_group(url: str) -> tuple[str, str]:
    """A URL without, and the group behind, its `#`."""
    plain, _, group = url.partition("#")
    return plain, group or DEFAULT_GROUP


Endpoints = frozenset[Endpoint]


class Outage:
    """Whether a source can look: `why` is empty while it can. One log line when an outage begins, one when it ends."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.failures = 0
        self.why = ""

    def __repr__(self) -> str:
        return f"<Outage of {self._source}: {self.why or 'none'}, failures={self.failures}>"

    def failed(self, why: str) -> None:
        if not self.why:
            log.warning("discovery fails; what was found last is kept", extra={"source": self._source, "why": why})
        self.failures += 1
        self.why = why

    def over(self) -> None:
        if self.why:
            log.info("discovery works again", extra={"source": self._source})
        self.why = ""


class Source(Protocol):
    """One or more of the URLs in the setting `upstream`, followed for ever."""

    @property
    def name(self) -> str: ...
    @property
    def outage(self) -> Outage: ...
    def observe(self) -> AsyncIterator[Endpoints]: ...
