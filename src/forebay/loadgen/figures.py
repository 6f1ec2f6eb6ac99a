"""What a measurement comes to. Pure: samples in, figures out, all times in seconds.

The definitions are those of vLLM's benchmark (`vllm/benchmarks/serve.py`, `calculate_metrics`):

    TTFT  from sending a request to its first token
    ITL   between one token's arrival and the next one's, over all requests together; tokens that come in one event
          are one arrival
    E2E   from sending to the last token
    TPOT  (E2E - TTFT) / (tokens - 1), one value a request, of those with more than one token
    goodput  requests/s that meet every objective; a request of one token has a TPOT of 0 there

Percentiles are interpolated linearly, as NumPy's are. A request that failed is in none of these, but for attainment,
which is the share of all requests that ended, failed ones too, that met every objective.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import floor, sqrt

import msgspec


class Sample:
    """One request: when it was sent, when tokens came, and how many the server counted. Times are monotonic."""

    __slots__ = ("ended", "events", "failure", "first", "gaps", "last", "output_tokens", "prompt_tokens", "sent")

    def __init__(self, sent: float) -> None:
        self.sent = sent
        self.first = self.last = self.ended = 0.0
        self.gaps = array("d")
        self.events = 0  # those with text
        self.prompt_tokens = self.output_tokens = 0
        self.failure: str | None = None

    def __repr__(self) -> str:
        how = f"failed: {self.failure}" if self.failure else f"ttft={self.ttft:.4f} e2e={self.e2e:.4f}"
        return f"<Sample {how} tokens={self.output_tokens}>"

    @property
    def ttft(self) -> float:
        return self.first - self.sent

    @property
    def e2e(self) -> float:
        return self.last - self.sent

    @property
    def tpot(self) -> float | None:
        return (self.e2e - self.ttft) / (self.output_tokens - 1) if self.output_tokens > 1 else None


class Measured(msgspec.Struct):
    """A run: the requests that ended in it, from `started` to `ended`."""

    samples: list[Sample]
    started: float
    ended: float
    planned: int
    cut: int = 0  # under way when the run was stopped: neither good nor failed
    late_s: Sequence[float] = ()  # how much later than planned each request went out
    client_cpu_s: float = 0.0
    stopped: bool = False


class Slo(msgspec.Struct, frozen=True):
    """What a request must keep within, seconds; None: anything."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None


class Spread(msgspec.Struct, frozen=True):
    """A figure over many requests or tokens, seconds."""

    count: int
    mean: float
    std: float
    median: float
    p90: float
    p95: float
    p99: float
    min: float
    max: float


class Summary(msgspec.Struct, frozen=True):
    """What `--json` has of a run. None where nothing was there to measure."""

    duration_s: float
    planned: int
    completed: int
    failed: int
    cut: int
    failures: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    goodput_per_s: float | None
    attainment: float | None
    mean_in_flight: float
    ttft_s: Spread | None
    itl_s: Spread | None
    tpot_s: Spread | None
    e2e_s: Spread | None
    client_cpu_share: float
    late_p99_s: float


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in ascending order."""
    at = (len(ordered) - 1) * percent / 100
    below = floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def spread(values: Iterable[float]) -> Spread | None:
    ordered = sorted(values)
    if not ordered:
        return None
    mean = sum(ordered) / len(ordered)
    std = sqrt(sum((value - mean) ** 2 for value in ordered) / len(ordered))
    median, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    return Spread(len(ordered), mean, std, median, p90, p95, p99, ordered[0], ordered[-1])


def meets(sample: Sample, slo: Slo) -> bool:
    """Whether a request keeps within every objective."""
    if sample.failure is not None:
        return False
    pairs = ((sample.ttft, slo.ttft), (sample.tpot or 0.0, slo.tpot), (sample.e2e, slo.e2e))
    return all(limit is None or value <= limit for value, limit in pairs)


def summarise(run: Measured, slo: Slo | None = None) -> Summary:
    """All figures of a run."""
    done = [sample for sample in run.samples if sample.failure is None]
    failures = Counter(sample.failure for sample in run.samples if sample.failure is not None)
    duration = max(run.ended - run.started, 1e-9)
    prompt, output = sum(s.prompt_tokens for s in done), sum(s.output_tokens for s in done)
    good = sum(meets(sample, slo) for sample in done) if slo else 0
    return Summary(
        duration_s=duration,
        planned=run.planned,
        completed=len(done),
        failed=len(run.samples) - len(done),
        cut=run.cut,
        failures=dict(failures.most_common()),
        prompt_tokens=prompt,
        output_tokens=output,
        requests_per_s=len(done) / duration,
        output_tokens_per_s=output / duration,
        total_tokens_per_s=(prompt + output) / duration,
        goodput_per_s=good / duration if slo else None,
        attainment=good / len(run.samples) if slo and run.samples else None,
        mean_in_flight=sum(s.e2e for s in done) / duration,
        ttft_s=spread(s.ttft for s in done),
        itl_s=spread(chain.from_iterable(s.gaps for s in done)),
        tpot_s=spread(tpot for s in done if (tpot := s.tpot) is not None),
        e2e_s=spread(s.e2e for s in done),
        client_cpu_share=run.client_cpu_s / duration,
        late_p99_s=percentile(sorted(run.late_s), 99) if run.late_s else 0.0,
    )
