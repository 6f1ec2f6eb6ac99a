"""Say by Prometheus whether a new version does worse than the old one; standard library only.

    judge.py reach    --prometheus URL                        does it answer?
    judge.py canary   --prometheus URL --model MODEL  …       the canary's engines beside all others of the model
    judge.py release  --prometheus URL --since UNIX-TIME …    all requests since then, beside those before

Two figures are compared, the share of failures and the 95th percentile of the time to first token, by the margins that
are given. It looks again and again for `--watch` seconds: worse, once there are enough requests, ends it at once.
Prints one line. Status 0: no worse. 1: worse. 2: Prometheus cannot be asked. 3: too few requests to tell.

A counter's growth is what `increase` says, or, of a series that was not there before, all of it: a new pod's first
failures come between two scrapes.
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

GOOD, WORSE, NO_ANSWER, TOO_FEW = 0, 1, 2, 3
SHORTEST_S = 15.0  # a window must hold some scrapes
FLOOR_S = 0.05  # of times to first token: less than that is no difference that anybody sees
TIMEOUT_S = 10.0
PATIENCE = 3  # failed looks in a row


class Unreachable(Exception):
    """Prometheus cannot be asked; the message says why."""


@dataclass(frozen=True)
class Margins:
    """By how much the new version may be worse."""

    min_requests: float
    error: float
    latency: float


@dataclass(frozen=True)
class Figures:
    """What a version did. `ttft_s` is nan where nothing was streamed."""

    requests: float
    failed: float
    ttft_s: float

    @property
    def failure_share(self) -> float:
        return self.failed / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Series:
    """Where a version's figures are: counters of its requests and of those that failed, and a histogram's buckets."""

    requests: str
    failed: str
    first_token: str


def of_group(model: str, group: str, match: str) -> Series:
    """Attempts at engines: what other engines made good counts as well."""
    told = ",".join(filter(None, (f'model="{model}"', group, match)))
    attempts = "forebay_group_attempts_total"
    return Series(
        f"{attempts}{{{told}}}",
        f'{attempts}{{{told},outcome="failed"}}',
        f"forebay_group_time_to_first_token_seconds_bucket{{{told}}}",
    )


def of_all(match: str) -> Series:
    """Requests as callers see them."""
    failed = ",".join(filter(None, ('status=~"5.."', match)))
    return Series(
        f"forebay_requests_total{{{match}}}",
        f"forebay_requests_total{{{failed}}}",
        f"forebay_time_to_first_token_seconds_bucket{{{match}}}",
    )


def grown(series: str, window_s: float) -> str:
    """By how much each of some counters grew."""
    window = f"{math.ceil(window_s)}s"
    return f"((({series}) unless ({series} offset {window})) or increase({series}[{window}]))"


def worse(new: Figures, old: Figures, margins: Margins) -> str:
    """Why the new version is worse; empty where it is not."""
    if new.failure_share > old.failure_share + margins.error:
        return (
            f"{new.failure_share:.1%} of {new.requests:.0f} requests fail, {old.failure_share:.1%} of the others'"
            f" {old.requests:.0f}"
        )
    if new.ttft_s > old.ttft_s * margins.latency + FLOOR_S:  # nan is never more
        return f"the first token takes {new.ttft_s:.2f} s (95th percentile), the others' {old.ttft_s:.2f} s"
    return ""


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        token = os.environ.get("PROMETHEUS_TOKEN")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def value(self, query: str, at: float) -> float:
        """The one number that a query comes to; 0 where there is none. Raises `Unreachable`."""
        if not self._url.startswith(("http://", "https://")):
            raise Unreachable(f"{self._url} is no URL such as http://127.0.0.1:9090")
        url = f"{self._url}/api/v1/query?{urlencode({'query': query, 'time': f'{at:.3f}'})}"
        try:
            with urlopen(Request(url, headers=self._headers), timeout=TIMEOUT_S) as answer:  # noqa: S310
                found = json.load(answer)["data"]["result"]
            return float(found[0]["value"][1]) if found else 0.0
        except HTTPError as refused:
            with refused:
                raise Unreachable(f"{self._url} answers {refused.code}") from None
        except URLError as failure:
            raise Unreachable(f"{self._url} does not answer: {failure.reason}") from None
        except (OSError, ValueError, LookupError, TypeError) as failure:
            raise Unreachable(f"{self._url} does not answer as Prometheus does: {failure}") from None

    def figures(self, series: Series, window_s: float, at: float) -> Figures:
        buckets = f"histogram_quantile(0.95, sum by (le) ({grown(series.first_token, window_s)}))"
        counted = [f"sum({grown(one, window_s)})" for one in (series.requests, series.failed)]
        requests, failed, ttft_s = (self.value(query, at) for query in (*counted, buckets))
        return Figures(requests, failed, ttft_s or math.nan)


@dataclass(frozen=True)
class Sides:
    """What is compared: the new version since `since`, with the old one beside it, or (`apart`) before that."""

    new: Series
    old: Series
    since: float
    apart: bool

    def look(self, prometheus: Prometheus, watch_s: float, now: float) -> tuple[Figures, Figures]:
        """Both, as they are now."""
        window_s = max(now - self.since, SHORTEST_S)
        old_at, old_s = (self.since, watch_s) if self.apart else (now, window_s)
        return prometheus.figures(self.new, window_s, now), prometheus.figures(self.old, old_s, old_at)


def watch(prometheus: Prometheus, sides: Sides, margins: Margins, watch_s: float, every_s: float) -> tuple[int, str]:
    """Look until it is known, or the time is over."""
    until, failed = time.time() + watch_s, 0
    new = Figures(0, 0, math.nan)
    while True:
        now = time.time()
        try:
            new, old = sides.look(prometheus, watch_s, now)
        except Unreachable as failure:
            failed += 1
            if failed >= PATIENCE:
                return NO_ANSWER, f"not judged: {failure}"
        else:
            failed = 0
            if new.requests >= margins.min_requests and (why := worse(new, old, margins)):
                return WORSE, f"worse: {why}"
        if now >= until:
            break
        time.sleep(min(every_s, max(until - now, 0.1)))
    if new.requests < margins.min_requests:
        return TOO_FEW, f"not judged: {new.requests:.0f} requests, and {margins.min_requests:.0f} are wanted"
    return GOOD, f"no worse: {new.failure_share:.1%} of {new.requests:.0f} requests failed"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("reach", "canary", "release"))
    parser.add_argument("--prometheus", required=True)
    parser.add_argument("--match", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--group", default="canary", help="the canary's")
    parser.add_argument("--since", type=float, default=0.0)
    parser.add_argument("--watch", type=float, default=300.0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--min-requests", type=float, default=50.0)
    parser.add_argument("--error-margin", type=float, default=0.01)
    parser.add_argument("--latency-factor", type=float, default=1.3)
    return parser.parse_args()


def main() -> int:
    told = options()
    prometheus = Prometheus(told.prometheus)
    if told.what == "reach":
        try:
            prometheus.value("vector(1)", time.time())
        except Unreachable as failure:
            print(f"{failure}; name another with --prometheus")
            return NO_ANSWER
        return GOOD
    if told.what == "canary":
        groups = (f'group="{told.group}"', f'group!="{told.group}"')
        new, old = (of_group(told.model, group, told.match) for group in groups)
        sides = Sides(new, old, told.since or time.time(), apart=False)
    else:
        sides = Sides(of_all(told.match), of_all(told.match), told.since, apart=True)
    margins = Margins(told.min_requests, told.error_margin, told.latency_factor)
    status, line = watch(prometheus, sides, margins, told.watch, told.every)
    print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
