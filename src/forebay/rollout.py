"""Rolling replacement: bring the engines in line with changed settings, one after the other, while requests go on.

For each engine that is to be exchanged, one of two ways:

    surge     the new one is started and warmed beside the old one; once it has joined, the old one is retired
    in_place  where there is room for one only: the old one is retired first, or drained and put to sleep
              (`engine_sleep`), then the new one is started

Where a new engine fails before it is ready, the old one stays (or is woken, or started again) and the rollout ends.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from forebay.failures import Failure
from forebay.fleet import Engine, Fleet, Slot, StartFailed

log = logging.getLogger("forebay.rollout")

ROOM = 1.2  # times what the old engine holds must be free for another beside it

Progress = Literal["none", "running", "done", "failed"]


class CannotPlan(Exception):
    """The settings cannot be followed; the message says what is wrong."""


@dataclass
class Report:
    """How the latest rollout went, or goes; `steps` tells what has been done, the latest last."""

    state: Progress = "none"
    replaced: int = 0
    to_replace: int = 0
    steps: list[str] = field(default_factory=list)


def plan(
    current: Sequence[object], wanted: Sequence[object], *, force: bool = False
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pair what runs with what is wanted, by index: to exchange (old, new), to start, to retire. Pure.

    Equal ones stay as they are; `force` exchanges them too.
    """
    left_current, left_wanted = list(range(len(current))), list(range(len(wanted)))
    exchange = []
    for old in list(left_current):
        same = next((new for new in left_wanted if wanted[new] == current[old]), None)
        if same is not None:
            left_current.remove(old)
            left_wanted.remove(same)
            if force:
                exchange.append((old, same))
    pairs = list(zip(left_current, left_wanted, strict=False))
    return [*exchange, *pairs], left_wanted[len(pairs) :], left_current[len(pairs) :]


class Rollout:
    """At most one at a time. `read_slots` reads the settings again; it may block, and raise `CannotPlan`."""

    def __init__(self, fleet: Fleet, read_slots: Callable[[], list[Slot]]) -> None:
        self._fleet = fleet
        self._read_slots = read_slots
        self._task: asyncio.Task[None] | None = None
        self.report = Report()

    def __repr__(self) -> str:
        return f"<Rollout {self.report}>"

    def describe(self) -> dict[str, Any]:
        return asdict(self.report)

    def begin(self, *, force: bool = False) -> bool:
        """Begin one; False while one is under way."""
        if self._task is not None and not self._task.done():
            return False
        self.report = Report("running", steps=["reading the settings"])
        self._task = asyncio.get_running_loop().create_task(self._run(force))
        return True

    async def stop(self) -> None:
        """End it where it is: the process is about to stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, force: bool) -> None:
        try:
            await self._roll(await asyncio.to_thread(self._read_slots), force)
        except (CannotPlan, StartFailed, Failure) as failure:
            self._say("failed", str(failure))
        except Exception as bug:
            self._say("failed", f"Forebay failed: {bug}")
            raise
        else:
            self._say("done", f"{self.report.replaced} engines replaced")

    async def _roll(self, slots: list[Slot], force: bool) -> None:
        engines = list(self._fleet.engines)
        exchange, start, retire = plan(
            [engine.slot.essence for engine in engines], [slot.essence for slot in slots], force=force
        )
        self.report.to_replace = len(exchange)
        for old, new in exchange:
            await self._exchange(engines[old], slots[new])
            self.report.replaced += 1
        for new in start:
            await self._started(slots[new])
        for old in retire:
            await self._fleet.retire(engines[old])

    async def _exchange(self, old: Engine, slot: Slot) -> None:
        way = await asyncio.to_thread(_way, old, slot)
        beside = "beside" if way == "surge" else "in place of"
        self._say("running", f"starting another engine {beside} {old.spec.name}")
        if way == "surge":
            await self._started(slot)
            await self._fleet.retire(old)
            return
        asleep = await self._asleep(old)
        if not asleep:
            await self._fleet.retire(old)
        try:
            await self._started(slot)
        except StartFailed:
            if asleep:
                await old.wake()
            else:
                self._fleet.start(old.slot)
            raise
        if asleep:
            await self._fleet.retire(old)

    async def _asleep(self, old: Engine) -> bool:
        """Drain the old engine, and have it sleep where it can, from which it is back sooner than from a start."""
        if not old.slot.settings.engine_sleep:
            return False
        await self._fleet.drain(old)
        try:
            await old.sleep()
        except Failure as failure:
            self._say("running", f"{old.spec.name} does not sleep: {failure}")
            return False
        return True

    async def _started(self, slot: Slot) -> None:
        engine = self._fleet.start(slot)
        try:
            await engine.joined
        except StartFailed as failure:
            await self._fleet.retire(engine)
            raise StartFailed(f"the new engine failed before it was ready, the old one stays: {failure}") from None

    def _say(self, state: Progress, message: str) -> None:
        self.report.state = state
        self.report.steps.append(message)
        level = logging.ERROR if state == "failed" else logging.INFO
        log.log(level, "rollout", extra={"state": state, "why": message, "replaced": self.report.replaced})


def _way(old: Engine, slot: Slot) -> Literal["surge", "in_place"]:
    """Whether there is room for two."""
    chosen = slot.settings.rollout
    if chosen != "auto":
        return chosen
    if "CUDA_VISIBLE_DEVICES" in old.spec.env:
        return "in_place"
    return "surge" if old.supervisor.resident_bytes() * ROOM < available_bytes() else "in_place"


def available_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that may still be used: the machine's, or what this control group may have, whichever is less."""
    bounds = [float("inf")]
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            bounds.append(float(line.split()[1]) * 1024)
    most, used = cgroup / "memory.max", cgroup / "memory.current"
    if most.is_file() and used.is_file() and (limit := most.read_text().strip()) != "max":
        bounds.append(float(limit) - float(used.read_text()))
    return min(bounds)
