"""Replicas as routing sees them, for its tests."""

from dataclasses import dataclass, field

from forebay.policy.breaker import Breaker


@dataclass(eq=False)
class Candidate:
    name: str = ""
    ready: bool = True
    draining: bool = False
    load: int = 0
    breaker: Breaker = field(default_factory=Breaker)


def open_breaker(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(now)
    return breaker


def pool_of(size: int) -> list[Candidate]:
    return [Candidate(f"replica-{number}") for number in range(size)]
