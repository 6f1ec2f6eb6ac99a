"""PromQL made of the catalogue's objects, so that a renamed metric or label breaks the generation and not a panel.

A `Lens` says what all expressions of a place have in common: the window that rates are taken over, and the labels that
are chosen there, such as a dashboard's variables.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from forebay.monitoring.elsewhere import ELSEWHERE
from forebay.refusals import Refusal
from forebay.telemetry.catalogue import CATALOGUE, Metric

SCRAPED = frozenset({"job", "instance"})  # labels that Prometheus gives to whatever it scrapes
_PARTS = ("_bucket", "_sum", "_count")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_HISTOGRAMS = {metric.name for metric in (*CATALOGUE, *ELSEWHERE) if metric.kind == "histogram"}
_NO_NAMES = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|on|without|ignoring|group_left)\s*\([^)]*\)')


@dataclass(frozen=True, slots=True)
class Lens:
    """`always` are matchers by label (`=~"$model"`), applied to each metric that has the label."""

    window: str
    always: Mapping[str, str] = field(default_factory=dict)

    def of(self, metric: Metric, *where: str, end: str = "") -> str:
        """A metric's series; `where` are further matchers, such as `state="open"`."""
        known = {*metric.labels, *SCRAPED, *({"le"} if end == "_bucket" else ())}
        if unknown := {_NAME.match(one)[0] for one in where} - known:  # type: ignore[index]
            raise ValueError(f"{metric.name} has no label {', '.join(unknown)}")
        chosen = [*where, *(f"{label}{value}" for label, value in self.always.items() if label in known)]
        return f"{metric.name}{end}{{{','.join(chosen)}}}" if chosen else f"{metric.name}{end}"

    def total(self, metric: Metric, *where: str, by: tuple[str, ...] = (), how: str = "sum") -> str:
        """A gauge over all series, or by some labels."""
        return f"{how} {_by(metric, by)}({self.of(metric, *where)})"

    def rate(
        self, metric: Metric, *where: str, by: tuple[str, ...] = (), window: str | None = None, end: str = ""
    ) -> str:
        """Increase a second, all series summed or by some labels."""
        series = self.of(metric, *where, end=end)
        return f"sum {_by(metric, by)}(rate({series}[{window or self.window}]))"

    def rose(self, metric: Metric, *where: str, by: tuple[str, ...] = (), window: str) -> str:
        """What a counter rose by, which must be something; one that appeared just now rose from nothing."""
        series = self.of(metric, *where)
        grown = f"increase({series}[{window}]) > 0 or ({series} > 0 unless {series} offset {window})"
        return f"sum {_by(metric, by)}({grown})"

    def quantile(self, share: float, metric: Metric, *where: str, by: tuple[str, ...] = ()) -> str:
        """A quantile of a histogram."""
        series = f"rate({self.of(metric, *where, end='_bucket')}[{self.window}])"
        return f"histogram_quantile({share:g}, sum {_by(metric, (*by, 'le'))}({series}))"

    def mean(self, metric: Metric, *where: str, by: tuple[str, ...] = ()) -> str:
        """A histogram's mean."""
        return f"{self.rate(metric, *where, by=by, end='_sum')} / {self.rate(metric, *where, by=by, end='_count')}"


def _by(metric: Metric, labels: tuple[str, ...]) -> str:
    if unknown := set(labels) - {*metric.labels, *SCRAPED, "le"}:
        raise ValueError(f"{metric.name} has no label {', '.join(unknown)}")
    return f"by ({', '.join(labels)}) " if labels else ""


def names_in(expression: str) -> set[str]:
    """The metrics that an expression reads; a histogram's parts as the histogram."""
    bare = _NO_NAMES.sub(" ", expression)
    found = {match[0] for match in _NAME.finditer(bare) if not bare[match.end() :].lstrip().startswith("(")}
    return {whole(name) for name in found if "_" in name or ":" in name or name in ("up", "ALERTS")}


def whole(name: str) -> str:
    """A histogram's name, of one of its parts too."""
    return next((name.removesuffix(part) for part in _PARTS if name.removesuffix(part) in _HISTOGRAMS), name)


def codes(wanted: Callable[[int], bool]) -> str:
    """A matcher of the error codes whose status is wanted."""
    kinds = [kind for kind in _kinds(Refusal) if wanted(kind.status)]
    found = {*chain.from_iterable((kind.code, *vars(kind).get("also", ())) for kind in kinds)}
    return f'code=~"{"|".join(sorted(found))}"'


def _kinds(kind: type[Refusal]) -> Iterator[type[Refusal]]:
    for child in kind.__subclasses__():
        yield child
        yield from _kinds(child)


SERVER_ERRORS = codes(lambda status: status >= 500)
LIMIT_ERRORS = codes(lambda status: status == 429)
