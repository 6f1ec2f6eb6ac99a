"""Who is next? Weighted fairness between tenants by tokens served: the Virtual Token Counter (Sheng et al., OSDI 2024).

Each tenant has a counter of what it has been served, divided by its weight. Whoever waits and has the smallest goes
next; of those with equal ones, whoever was let in least recently. A tenant that comes back to wait is lifted: to the
smallest counter of those who wait, or, where nobody does, to that of the tenant let in last. So nobody saves up what
it did not use, and nobody who waits is overtaken for long. Within a tenant it is first come, first served.

Priority classes are strict: while a higher one waits, no lower one is served. A tenant has one counter in all of them.

A class keeps its tenants' lanes in a heap, by what their counters were when last looked at. Counters mostly rise, so an
entry found at the top is put right there; the rare one that falls is entered anew. A decision costs O(log n).
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")
TENANTS_REMEMBERED = 4096
_SLACK = 16  # entries of lanes long gone that a heap may hold before it is made anew


class Tenant:
    """One who competes. `counter` is what it was served by its weight; `held` its requests that wait or run; `left_at`
    when it last had none any more, and `returns` whether it was soon back then."""

    __slots__ = ("counter", "held", "lanes", "left_at", "let_in", "name", "returns", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.counter = 0.0
        self.let_in = 0
        self.held = 0
        self.lanes = 0
        self.left_at = -inf
        self.returns = False

    def __repr__(self) -> str:
        return f"<Tenant {self.name} {self.counter:g}>"


class _Lane(Generic[T]):
    """What one tenant has waiting in one class, with the number of each arrival."""

    __slots__ = ("entry", "items", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.items: OrderedDict[T, int] = OrderedDict()
        self.entry: _Entry[T] | None = None

    def key(self) -> tuple[float, int, int]:
        return self.tenant.counter, self.tenant.let_in, next(iter(self.items.values()))


_Entry = tuple[tuple[float, int, int], int, _Lane[T]]  # the key as it was, a tie-breaker, the lane


class _Class(Generic[T]):
    """The lanes of one priority; `lengths` has them by how many wait in them, for whoever must give way."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.size = 0
        self.weight = 0.0
        self.lanes: dict[Tenant, _Lane[T]] = {}
        self._heap: list[_Entry[T]] = []
        self._lengths: dict[int, dict[_Lane[T], None]] = {}
        self._longest = 0
        self._ties = count()

    def __lt__(self, other: "_Class[T]") -> bool:
        return self.priority > other.priority

    def push(self, tenant: Tenant, item: T, arrival: int) -> None:
        lane = self.lanes.get(tenant)
        if lane is None:
            lane = self.lanes[tenant] = _Lane(tenant)
            tenant.lanes += 1
            self.weight += tenant.weight
        lane.items[item] = arrival
        self._resized(lane, +1)
        if lane.entry is None:
            self.enter(lane)

    def remove(self, tenant: Tenant, item: T) -> None:
        lane = self.lanes[tenant]
        del lane.items[item]
        self._resized(lane, -1)
        if not lane.items:
            lane.entry = None
            del self.lanes[tenant]
            tenant.lanes -= 1
            self.weight = self.weight - tenant.weight if self.lanes else 0.0

    def enter(self, lane: _Lane[T]) -> None:
        lane.entry = (lane.key(), next(self._ties), lane)
        heappush(self._heap, lane.entry)
        if len(self._heap) > 2 * len(self.lanes) + _SLACK:
            self._heap = [one.entry for one in self.lanes.values() if one.entry is not None]
            heapify(self._heap)

    def first(self) -> _Lane[T]:
        """The lane whose turn it is; there must be one."""
        while True:
            entry = self._heap[0]
            lane = entry[2]
            if lane.entry is not entry:
                heappop(self._heap)
            elif (key := lane.key()) != entry[0]:
                lane.entry = (key, next(self._ties), lane)
                heapreplace(self._heap, lane.entry)
            else:
                return lane

    def longest(self) -> _Lane[T]:
        """A lane in which most wait; there must be one."""
        return next(reversed(self._lengths[self._longest]))

    def _resized(self, lane: _Lane[T], change: int) -> None:
        self.size += change
        length = len(lane.items)
        before = self._lengths.get(length - change)
        if before is not None:
            before.pop(lane, None)
            if not before:
                del self._lengths[length - change]
        if length:
            self._lengths.setdefault(length, {})[lane] = None
        if length > self._longest or self._longest not in self._lengths:
            self._longest = length


class FairQueue(Generic[T]):
    """All who wait for one thing. Items are hashable, and each is in the queue once."""

    def __init__(self) -> None:
        self.size = 0
        self._classes: list[_Class[T]] = []  # the highest priority first
        self._of_priority: dict[int, _Class[T]] = {}
        self._tenants: dict[str, Tenant] = {}
        self._most_tenants = TENANTS_REMEMBERED
        self._last = Tenant("", 1.0)
        self._let_in = 0
        self._arrivals = count()

    def __repr__(self) -> str:
        return f"<FairQueue {self.size} of {sum(len(one.lanes) for one in self._classes)} tenants>"

    def arrived(self, name: str, weight: float) -> Tenant:
        """The tenant of a new request, its counter lifted if it has nothing waiting."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._add(name, weight)
        elif tenant.weight != weight and not tenant.lanes:
            tenant.weight = weight
        if not tenant.lanes:
            floor = self._last.counter if not self.size else self._smallest()
            if tenant.counter < floor:
                tenant.counter = floor
        return tenant

    def let_in(self, tenant: Tenant) -> None:
        """One of its requests has got what it waited for, or had no need to wait."""
        self._let_in += 1
        tenant.let_in = self._let_in
        self._last = tenant

    def push(self, tenant: Tenant, priority: int, item: T) -> None:
        found = self._of_priority.get(priority)
        if found is None:
            found = self._of_priority[priority] = _Class(priority)
            insort(self._classes, found)
        found.push(tenant, item, next(self._arrivals))
        self.size += 1

    def waiting(self) -> Iterator[tuple[str, int]]:
        """Each tenant that has something waiting, and how much; once a class."""
        for one in self._classes:
            for tenant, lane in one.lanes.items():
                yield tenant.name, len(lane.items)

    def next(self) -> T:
        """Whoever is next; there must be somebody."""
        return next(iter(self._classes[0].first().items))

    def pop(self) -> T:
        """Take out whoever is next; there must be somebody."""
        highest = self._classes[0]
        lane = highest.first()
        item = next(iter(lane.items))
        self.let_in(lane.tenant)
        self.remove(lane.tenant, highest.priority, item)
        return item

    def remove(self, tenant: Tenant, priority: int, item: T) -> None:
        """Take out one who waits."""
        self.size -= 1
        found = self._of_priority[priority]
        found.remove(tenant, item)
        if not found.size:
            self._classes.remove(found)
            del self._of_priority[priority]

    def would_be_next(self, tenant: Tenant, priority: int) -> bool:
        """Whether it would be the turn of a tenant that has nothing waiting, if it had; somebody else must wait."""
        highest = self._classes[0]
        if highest.priority != priority:
            return highest.priority < priority
        return tenant.counter <= highest.first().tenant.counter

    def lowered(self, tenant: Tenant) -> None:
        """The counter of a tenant that waits has fallen. (Whoever serves a tenant adds to its counter.)"""
        for found in self._classes:
            if (lane := found.lanes.get(tenant)) is not None:
                found.enter(lane)

    def gives_way(self, tenant: Tenant, priority: int) -> T | None:
        """Who must leave a full queue for a new request: the newest of the tenant that has most waiting, in the lowest
        class. Nobody of a higher class, nor where the newcomer's own tenant would then have as many."""
        lowest = self._classes[-1]
        if lowest.priority > priority:
            return None
        lane = lowest.longest()
        own = lowest.lanes.get(tenant)
        if lowest.priority == priority and len(lane.items) < (len(own.items) if own is not None else 0) + 2:
            return None
        return next(reversed(lane.items))

    def ahead(self, tenant: Tenant, priority: int) -> float:
        """About how many go before a new request, itself counted."""
        before = sum(one.size for one in self._classes if one.priority > priority)
        found = self._of_priority.get(priority)
        if found is None:
            return before + 1
        lane = found.lanes.get(tenant)
        own, weight = (len(lane.items), found.weight) if lane is not None else (0, found.weight + tenant.weight)
        return before + min(found.size + 1.0, (own + 1) * weight / tenant.weight)

    def _smallest(self) -> float:
        return min(one.first().tenant.counter for one in self._classes)

    def _add(self, name: str, weight: float) -> Tenant:
        if len(self._tenants) >= self._most_tenants:
            self._tenants = {known: tenant for known, tenant in self._tenants.items() if tenant.held}
            self._most_tenants = max(TENANTS_REMEMBERED, 2 * len(self._tenants))
        tenant = self._tenants[name] = Tenant(name, weight)
        return tenant
