"""When requests go out. Pure: the same draw gives the same times.

An *open* load sends at given times, whatever becomes of the requests before: users who do not know of one another. A
*closed* one has so many requests under way at all times: the next goes out when one ends.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from random import Random

Process = Literal["poisson", "fixed"]


@dataclass(frozen=True, slots=True)
class Closed:
    """So many requests under way until none is left to send."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class Open:
    """A request at each of these times, seconds from the start."""

    times: tuple[float, ...]


Load = Open | Closed


def arrivals(process: Process, rate: float, count: int, draw: "Random") -> Open:
    """`count` requests at `rate` requests/s."""
    return Open(poisson(rate, count, draw) if process == "poisson" else fixed(rate, count))


def fixed(rate: float, count: int) -> tuple[float, ...]:
    """One every 1/rate seconds."""
    return tuple(number / rate for number in range(count))


def poisson(rate: float, count: int, draw: "Random") -> tuple[float, ...]:
    """Exponential gaps, scaled so that the last request goes out at count/rate.

    The scaling is that of vLLM's benchmark (`vllm/benchmarks/serve.py`, `get_request`): without it, two seeds would
    differ by several percent in the load itself.
    """
    times = list(accumulate(draw.expovariate(1.0) for _ in range(count)))
    scale = count / rate / times[-1] if times else 0.0
    return tuple(time * scale for time in times)
