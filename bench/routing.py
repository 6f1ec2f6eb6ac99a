"""`make bench-routing`: what does choosing among 1,000 replicas cost? Microseconds a request, median and p99.

Each rule chooses for 2,000 conversations, with all replicas ready, with 30% that are down or have an open breaker, and
with two groups; the affinity key of a ~600-byte chat is computed where the rule wants one, as for a request. Chosen
replicas are loaded and relieved again 512 choices later, so that bounds matter. Then the making of the ring. Only
figures of one run on one machine compare.
"""

import statistics
import sys
from collections import deque
from time import perf_counter_ns
from typing import get_args

import msgspec

from forebay.policy.affinity import affinity_of
from forebay.policy.auth import Principal
from forebay.policy.ring import Ring
from forebay.policy.routing import Group, Routing, Strategy
from forebay.replicas.replica import Replica
from forebay.upstream.pool import Address, UpstreamPool
from forebay.wire.body import BodyLimits, read_demand, work_tokens

SIZE, REQUESTS, UNDER_WAY, CONVERSATIONS = 1000, 20_000, 512, 2000
BAR_US, RING_BAR_MS = 20, 50
CALLER = Principal("tenant", "key-1")


def replicas(healthy: float = 1.0) -> list[Replica]:
    """A thousand, of which a share is healthy; half of the others are down, half have an open breaker."""
    made = []
    for number in range(SIZE):
        address = Address(f"10.0.{number // 250}.{number % 250}", 8000)
        pool = UpstreamPool(address, connect_timeout_s=1, idle_s=1, max_connections=1)
        replica = Replica(str(address), pool, ready=True)
        if number * 7 % SIZE >= healthy * SIZE:
            if number % 2:
                replica.ready = False
            else:
                for _ in range(5):
                    replica.breaker.failed(0.0)
        made.append(replica)
    return made


def bodies() -> list[bytes]:
    """Chats of ~600 bytes."""
    system = {"role": "system", "content": "You are a careful assistant. " * 10}
    return [
        msgspec.json.encode(
            {"model": "m", "messages": [system, {"role": "user", "content": f"{number} " + "words " * 35}], "n": 1}
        )
        for number in range(CONVERSATIONS)
    ]


def measure(rule: Strategy, groups: list[Group[Replica]], chats: list[bytes]) -> list[float]:
    """The cost of each choice, microseconds."""
    routing, under_way, costs = Routing(rule), deque(), []
    work = work_tokens(read_demand(chats[0], BodyLimits(8, 20, 16, 10**6, 64, 10**4)), len(chats[0]))
    routing.choose(groups, 1.0, affinity_of(CALLER, None, chats[0]))  # the ring is made once
    for number in range(REQUESTS):
        body = chats[number * 7919 % CONVERSATIONS]
        begun = perf_counter_ns()
        affinity = affinity_of(CALLER, None, body) if routing.wants_affinity(groups) else None
        replica = routing.choose(groups, 1.0, affinity)[0]
        costs.append((perf_counter_ns() - begun) / 1000)
        under_way.append(replica.acquire(1.0, work))
        if len(under_way) > UNDER_WAY:
            under_way.popleft().release("cancelled", 1.0)
    return costs


def percentile(costs: list[float], share: float) -> float:
    return sorted(costs)[int(share * (len(costs) - 1))]


def main() -> int:
    chats = bodies()
    mixed = replicas()
    cases = {
        "all ready": lambda: [Group(replicas())],
        "30% not": lambda: [Group(replicas(0.7))],
        "two groups": lambda: [Group(mixed[: SIZE // 2], "default", 95), Group(mixed[SIZE // 2 :], "canary", 5)],
    }
    print(f"{SIZE} replicas, bodies of {len(chats[0])} bytes; microseconds a choice, affinity key included")
    medians = []
    for rule in get_args(Strategy):
        for name, groups in cases.items():
            costs = measure(rule, groups(), chats)
            medians.append(statistics.median(costs))
            print(f"{rule:18} {name:11} median {medians[-1]:6.1f}   p99 {percentile(costs, 0.99):6.1f}")
    names = [replica.name for replica in mixed]
    rings = []
    for _ in range(11):
        begun = perf_counter_ns()
        Ring(names)
        rings.append((perf_counter_ns() - begun) / 1e6)
    print(f"ring of {SIZE}: median {statistics.median(rings):.1f} ms, longest {max(rings):.1f} ms")
    return 0 if max(medians) <= BAR_US and statistics.median(rings) <= RING_BAR_MS else 1


if __name__ == "__main__":
    sys.exit(main())
