"""The highest rate that meets the objectives, and what to set because of it. Pure.

The search doubles the rate until it is too much, then halves what is left between (on a logarithmic scale) until the
two are close. A rate is met where enough requests keep within every objective *and* the server keeps up: an objective
on TPOT alone would be met by a queue that grows without end.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import ceil, floor, sqrt

import msgspec

from forebay.loadgen.figures import Measured, Slo, Summary

LOWEST_RATE = 0.01  # requests/s
HEADROOM = 0.8  # of what was measured: what autoscaling aims at, so that there is time to start another engine
CLIENT_BUSY = 0.9  # of one processor
LATE_S = 0.05


class Trial(msgspec.Struct, frozen=True):
    """One rate that was tried; `verdict` says in words why it is met or not."""

    rate: float
    met: bool
    verdict: str
    summary: Summary
    client_bound: bool = False  # not the server's limit


class Proposal(msgspec.Struct, frozen=True):
    """What to set: for one engine, but for the queue, which is the model's."""

    requests_per_s: float
    max_concurrency: int
    max_queue_size: int
    queue_timeout_s: float
    target_in_flight: float
    target_requests_per_s: float


def next_rate(trials: Sequence[Trial], first: float, precision: float, highest: float) -> float | None:
    """The rate to try next; None when the answer is as close as wanted, or there is none."""
    good = max((trial.rate for trial in trials if trial.met), default=0.0)
    bad = min((trial.rate for trial in trials if not trial.met and trial.rate > good), default=None)
    if not trials:
        return min(first, highest)
    if bad is None:
        return min(2 * good, highest) if good < highest else None
    if good == 0.0:
        return bad / 2 if bad / 2 >= LOWEST_RATE else None
    return sqrt(good * bad) if bad / good > 1 + precision else None


def best(trials: Sequence[Trial]) -> Trial | None:
    """The highest rate that was met."""
    return max((trial for trial in trials if trial.met), key=lambda trial: trial.rate, default=None)


def judge(rate: float, run: Measured, summary: Summary, attainment: float) -> Trial:
    """Whether a rate was met."""
    share = summary.attainment or 0.0
    if summary.client_cpu_share > CLIENT_BUSY or summary.late_p99_s > LATE_S:
        return Trial(rate, False, "this client is at its limit; run it on a machine of its own", summary, True)
    if share < attainment:
        return Trial(rate, False, f"{share:.1%} of requests within the objectives", summary)
    if falls_behind(run):
        return Trial(rate, False, "the server falls behind: requests under way only grow", summary)
    return Trial(rate, True, f"{share:.1%} of requests within the objectives", summary)


def falls_behind(run: Measured) -> bool:
    """Whether more and more requests were under way while they arrived.

    Between the middle and the end of the arrivals, the number under way grew by a tenth of those that arrived or more,
    and by more than chance does: both are counts, so their difference varies by the square root of their sum; by twice
    that, one trial in fifty. Else a short trial of a few requests is called too much, whatever the server does.
    """
    sent = sorted(sample.sent for sample in run.samples)
    ended = sorted(sample.ended for sample in run.samples)
    if len(sent) < 2:
        return False
    middle, end = (sent[0] + sent[-1]) / 2, sent[-1]
    before = bisect_right(sent, middle) - bisect_right(ended, middle)
    after = len(sent) - bisect_right(ended, end)
    arrived = len(sent) - bisect_right(sent, middle)
    return after - before > max(0.1 * arrived, 2 * sqrt(before + after))


def propose(trial: Trial, slo: Slo, engines: int = 1) -> Proposal:
    """What follows from a rate that was met, where `engines` shared the load.

    Little's law: requests under way = rate x time in the system. With the 95th percentile of the time instead of its
    mean, the limit does not bind at this rate in all but the worst moments. A queue may hold as many as are served in
    the time that the objective still leaves: who waits longer misses it anyway.
    """
    rate, summary = trial.rate / engines, trial.summary
    assert summary.e2e_s is not None
    assert summary.ttft_s is not None
    if slo.ttft is not None:
        slack = slo.ttft - summary.ttft_s.p95
    elif slo.e2e is not None:
        slack = slo.e2e - summary.e2e_s.p95
    else:
        slack = summary.e2e_s.mean
    slack = max(slack, 0.0)
    return Proposal(
        requests_per_s=rate,
        max_concurrency=max(ceil(rate * summary.e2e_s.p95), 1),
        max_queue_size=max(floor(trial.rate * slack), 1),
        queue_timeout_s=max(round(slack, 2), 0.1),
        target_in_flight=HEADROOM * rate * summary.e2e_s.mean,
        target_requests_per_s=HEADROOM * rate,
    )
