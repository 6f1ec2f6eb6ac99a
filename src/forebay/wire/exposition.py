"""Metrics of several engines as one page, in Prometheus's text format (0.0.4); each sample gets a label: whose it is.

An engine's page is gone through line by line and never made into objects: a sample is its name, its labels and the
rest, and a label is put before the others. Where a sample has that label already, its own becomes `exported_…`, as
Prometheus does it. What is not in the format is left out, for one wrong line would cost the whole page.

All samples of a metric must stand together, after one HELP and one TYPE, so they are gathered by metric first. Where
engines differ in what they say of one, the first is believed, and samples of another type are left out.
"""

import re
from dataclasses import dataclass, field

_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*+="[^"\\\n]*+(?:\\[\\"n][^"\\\n]*+)*+"'
_NUMBER = r"[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_SAMPLE = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:\{{((?:{_LABEL}(?:,{_LABEL})*+,?)?)\}})?"
    rf"( +(?:{_NUMBER}|[+-]?Inf|NaN)(?: +-?[0-9]++)?)"
)
_ONE_LABEL = re.compile(rf"({_LABEL})")
_TYPES = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "untyped": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}


class TooLarge(Exception):
    """The page would become larger than it may; nothing was added."""


@dataclass(slots=True)
class _Family:
    """One metric: what is said of it, and its samples."""

    kind: str = ""
    meaning: str = ""
    samples: list[str] = field(default_factory=list)


class Page:
    """Metrics with names that begin with `prefix`, of engines told apart by `label`; about `most_bytes` at most."""

    def __init__(self, prefix: str, label: str, most_bytes: int) -> None:
        self._prefix = prefix
        self._label = label
        self._left = most_bytes
        self._families: dict[str, _Family] = {}

    def __repr__(self) -> str:
        return f"<Page of {len(self._families)} metrics>"

    def add(self, text: str, of: str) -> None:
        """Take in the page of one engine. Raises `TooLarge`."""
        ours = f'{self._label}="{escaped(of)}"'
        taken = self._taken(text, ours)
        size = sum(len(line) for family in taken.values() for line in family.samples)
        if size > self._left:
            raise TooLarge
        self._left -= size
        for name, theirs in taken.items():
            family = self._families.setdefault(name, _Family())
            family.kind = family.kind or theirs.kind
            family.meaning = family.meaning or theirs.meaning
            if theirs.kind in ("", family.kind):
                family.samples += theirs.samples

    def text(self) -> str:
        """All of it."""
        lines: list[str] = []
        for name, family in self._families.items():
            if not family.samples:
                continue
            if family.meaning:
                lines.append(f"# HELP {name} {family.meaning}")
            if family.kind:
                lines.append(f"# TYPE {name} {family.kind}")
            lines += family.samples
        return "\n".join([*lines, ""])

    def _taken(self, text: str, ours: str) -> dict[str, _Family]:
        """What is well-formed of an engine's metrics, its samples with our label before their own."""
        families: dict[str, _Family] = {}
        typed = _Family()  # what the lines are about, and the names that its samples may have
        names: frozenset[str] = frozenset()
        theirs = f'{self._label}="'
        for line in text.replace("\0", "").split("\n"):  # a NUL is the end to some parsers
            if line.startswith(self._prefix):
                if (found := _SAMPLE.fullmatch(line)) is None:
                    continue
                name, labels, value = found.groups()
                if labels:
                    labels = f"{ours},{self._moved(labels) if theirs in labels else labels}"
                family = typed if name in names else families.setdefault(name, _Family())
                family.samples.append(f"{name}{{{labels or ours}}}{value}")
            elif line.startswith("# ") and line.startswith(self._prefix, len("# TYPE ")):
                _, what, name, *rest = line.split(" ", 3)
                told = rest[0] if rest else ""
                family = families.setdefault(name, _Family())
                if what == "HELP":
                    family.meaning = told
                elif what == "TYPE" and told in _TYPES:
                    family.kind, typed = told, family
                    names = frozenset(name + suffix for suffix in _TYPES[told])
        return families

    def _moved(self, labels: str) -> str:
        """The labels with one of our name out of the way."""
        parts = _ONE_LABEL.findall(labels)
        names = {part.partition("=")[0] for part in parts}
        if self._label not in names:
            return labels
        other = f"exported_{self._label}"
        while other in names:
            other = f"exported_{other}"
        return ",".join(other + part.removeprefix(self._label) if _is(part, self._label) else part for part in parts)


def _is(label: str, name: str) -> bool:
    return label.partition("=")[0] == name


def escaped(value: str) -> str:
    """A label's value as the format has it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
