"""What a HorizontalPodAutoscaler (autoscaling/v2) and KEDA do, as their documents say, over figures that are given.

    HPA     desired = ceil(total / target), unless that is within a tenth of what there is; of several metrics the most.
            One that is unknown holds up scaling down, and all of them anything. Then stabilisation: up to no more than
            the least, down to no less than the most that was recommended within the window; then the policies, which
            bound the change within a period.
    KEDA    from none to one as soon as a trigger is above its activation threshold, back to none when none has been
            for `cooldownPeriod`; in between it leaves all to an HPA. A trigger that fails `failureThreshold` times in
            a row is taken to ask for the fallback's replicas, or as many as there are.

Time is an argument. A metric's value is None where it cannot be had.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

TOLERANCE = 0.1
Values = Sequence[float | None]


@dataclass(frozen=True)
class Policy:
    kind: str  # Pods or Percent
    value: int
    period_s: float

    def change(self, start: int) -> int:
        return self.value if self.kind == "Pods" else ceil(start * self.value / 100)


@dataclass(frozen=True)
class Rules:
    """One direction."""

    window_s: float
    policies: tuple[Policy, ...]

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Rules":
        policies = tuple(Policy(one["type"], one["value"], one["periodSeconds"]) for one in told["policies"])
        return cls(told["stabilizationWindowSeconds"], policies)


@dataclass
class HPA:
    targets: Sequence[float]
    least: int
    most: int
    up: Rules
    down: Rules
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, current: int, values: Values, now: float) -> int:
        """How many there shall be."""
        wanted = self._stabilised(current, self._wanted(current, values), now)
        wanted = min(max(wanted, self.least), self.most)
        if wanted > current:
            wanted = min(
                wanted,
                max(self._start(current, p, now) + p.change(self._start(current, p, now)) for p in self.up.policies),
            )
        elif wanted < current:
            wanted = max(
                wanted,
                min(self._start(current, p, now) - p.change(self._start(current, p, now)) for p in self.down.policies),
            )
        if wanted != current:
            self._changes.append((now, wanted - current))
        return wanted

    def _wanted(self, current: int, values: Values) -> int:
        known = [
            _replicas(current, value, target)
            for value, target in zip(values, self.targets, strict=True)
            if value is not None
        ]
        if not known:
            return current
        return max(known) if len(known) == len(values) else max(current, *known)

    def _stabilised(self, current: int, wanted: int, now: float) -> int:
        self._recommended.append((now, wanted))
        least = min(n for at, n in self._recommended if at > now - self.up.window_s or at == now)
        most = max(n for at, n in self._recommended if at > now - self.down.window_s or at == now)
        return least if current < least else most if current > most else current

    def _start(self, current: int, policy: Policy, now: float) -> int:
        """How many there were when the policy's period began."""
        return current - sum(change for at, change in self._changes if at > now - policy.period_s)


@dataclass
class ScaledObject:
    """KEDA's, as it is rendered."""

    spec: dict[str, Any]
    hpa: HPA = field(init=False)
    _active_at: float = -inf
    _failed: list[int] = field(init=False)

    def __post_init__(self) -> None:
        behaviour = self.spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        self.hpa = HPA(
            [float(trigger["metadata"]["threshold"]) for trigger in self.spec["triggers"]],
            max(1, self.spec["minReplicaCount"]),
            self.spec["maxReplicaCount"],
            Rules.of(behaviour["scaleUp"]),
            Rules.of(behaviour["scaleDown"]),
        )
        self._failed = [0] * len(self.hpa.targets)

    @property
    def queries(self) -> list[str]:
        return [trigger["metadata"]["query"] for trigger in self.spec["triggers"]]

    def decide(self, current: int, values: Values, now: float) -> int:
        """How many there shall be."""
        values = [self._or_fallback(number, current, value) for number, value in enumerate(values)]
        thresholds = [float(trigger["metadata"]["activationThreshold"]) for trigger in self.spec["triggers"]]
        known = [(value, above) for value, above in zip(values, thresholds, strict=True) if value is not None]
        if any(value > above for value, above in known) or len(known) < len(values):
            self._active_at = now
        if current == 0:
            return max(1, self.spec["minReplicaCount"]) if self._active_at == now and known else 0
        if self.spec["minReplicaCount"] == 0 and now - self._active_at > self.spec["cooldownPeriod"]:
            return 0
        return self.hpa.decide(current, values, now)

    def _or_fallback(self, number: int, current: int, value: float | None) -> float | None:
        self._failed[number] = 0 if value is not None else self._failed[number] + 1
        fallback = self.spec["fallback"]
        if value is not None or self._failed[number] < fallback["failureThreshold"]:
            return value
        assert fallback["behavior"] == "currentReplicasIfHigher"
        return max(fallback["replicas"], current) * self.hpa.targets[number]


def _replicas(current: int, total: float, target: float) -> int:
    return current if current and abs(total / current / target - 1) <= TOLERANCE else ceil(total / target)
