"""Admission without a gateway: what a test needs to let requests in and watch them wait."""

import asyncio
from typing import Any

from forebay.policy.admission import Admission
from forebay.policy.auth import Principal
from forebay.policy.line import AdmissionRules, Place
from forebay.policy.prefill import Prefill

MODEL = "m"


class Promise(asyncio.Future[None]):
    """A future of a loop that never runs: it only remembers."""

    def __init__(self) -> None:
        super().__init__(loop=_LOOP)

    def refusal(self) -> BaseException | None:
        return self.exception() if self.done() else None


_LOOP = asyncio.new_event_loop()


class Engines:
    """How many requests the engines take."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity


def admission(capacity: int | Engines, **rules: Any) -> Admission:
    engines = capacity if isinstance(capacity, Engines) else Engines(capacity)
    usual = {"most_under_way": 100_000, "most_queued": 1000, "patience_s": 1000.0}
    return Admission(AdmissionRules(**{**usual, **rules}), lambda _: engines.capacity, Promise, lambda: 0.5)


def principal(tenant: str = "a", priority: int = 0, weight: float = 1.0) -> Principal:
    return Principal(tenant, f"key-{tenant}", priority=priority, weight=weight)


def is_in(place: Place) -> bool:
    """Whether it has what it asked for."""
    return place.running


def refused(place: Place) -> bool:
    return isinstance(place.granted, Promise) and place.granted.refusal() is not None


class Admitted:
    """One model's admission, and what a test asks it for."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission

    def ask(self, tenant: str, tokens: int, now: float, *, stream: bool = True) -> Place:
        return self.admission.acquire(principal(tenant), MODEL, tokens, now, stream=stream)

    @property
    def prefill(self) -> Prefill:
        return self.admission.lines[MODEL].prefill

    @property
    def running(self) -> int:
        return self.admission.lines[MODEL].running


def admitted(capacity: int | Engines, **rules: Any) -> Admitted:
    return Admitted(admission(capacity, **rules))
