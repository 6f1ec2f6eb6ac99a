"""Patterns (regular expressions) that engines would compile for far longer than their length lets expect.

Measured with xgrammar, vLLM's first choice: `a?` a hundred times takes 1.4 s, two hundred times 7 s; four hundred times
vLLM gives up after 5 s, and the thread goes on for minutes. Each part that may be left out multiplies the ways through
those beside it, so a run of such parts is bounded. A repetition of nothing but a repetition, `(a+)+`, is refused too:
xgrammar does not mind (3 ms), others do, and `a+` says the same. Lengths are bounded elsewhere (`structure.py`); what a
pattern means, and whether it is one, is the engine's to judge.
"""

import re
from typing import NamedTuple

MOST_OPTIONAL = 32  # in a row: 0.2 s

_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
_TOKEN = re.compile(r"\(\?[a-zA-Z-]+\)|\((?:\?(?:[:=!>]|<[=!]|P?<\w*>))?|\\.|.", re.DOTALL)
_OFTEN = re.compile(r"([*+?]|\{(\d*)(,?)(\d*)\})[?+]?")
_NEEDS_A_LOOK = re.compile(r"[*+}][?+]?\)+[?*+{]")


class _Part(NamedTuple):
    """`optional`: of how many parts that may be left out it consists, 0 where it may not be itself; `loops`: it is a
    repetition without end, and nothing else."""

    optional: int = 0
    loops: bool = False


class _Group:
    """A group that is being read."""

    def __init__(self) -> None:
        self.several = False  # alternatives
        self.optional = 0  # of the one with the most
        self._begin()

    def _begin(self) -> None:
        self.parts = self.run = 0
        self.may_be_empty, self.loops = True, False

    def add(self, part: _Part) -> None:
        self.parts += 1
        self.run = self.run + part.optional if part.optional else 0
        self.may_be_empty = self.may_be_empty and part.optional > 0
        self.loops = part.loops and self.parts == 1

    def end_alternative(self) -> None:
        if self.may_be_empty:
            self.optional = max(self.optional, self.run + 1)

    def next_alternative(self) -> None:
        self.end_alternative()
        self.several = True
        self._begin()

    def whole(self) -> _Part:
        self.end_alternative()
        return _Part(self.optional, self.loops and not self.several)


def needs_a_look(pattern: str) -> bool:
    """Whether anything may be wrong with it; with nearly none there is."""
    optional = pattern.count("?") + pattern.count("*") + pattern.count("{") + pattern.count("|")
    return optional > MOST_OPTIONAL or _NEEDS_A_LOOK.search(pattern) is not None


def complaint(pattern: str) -> str | None:
    """What is wrong with a pattern, None where nothing is, or where it is none. Takes a microsecond a character."""
    groups = [_Group()]
    at = 0
    while at < len(pattern):
        found = (_CLASS if pattern[at] == "[" else _TOKEN).match(pattern, at)
        if found is None:
            return None
        at, read = found.end(), found[0]
        if read in ("^", "$") or (read.startswith("(?") and read.endswith(")")):
            continue
        if read == "|":
            groups[-1].next_alternative()
        elif read.startswith("("):
            groups.append(_Group())
        elif read != ")" or len(groups) > 1:
            part = groups.pop().whole() if read == ")" else _Part()
            if (often := _OFTEN.match(pattern, at)) is not None:
                at = often.end()
                if part.loops and _is_endless(often):
                    return "repeats nothing but a repetition, as (a+)+ does; a+ says the same"
                part = _Part(max(part.optional, int(_may_be_none(often))), part.loops or _is_endless(often))
            groups[-1].add(part)
            if groups[-1].run > MOST_OPTIONAL:
                return f"has more than {MOST_OPTIONAL} parts in a row that may be left out"
    return None


def _is_endless(often: re.Match[str]) -> bool:
    return often[1] in ("*", "+") or (often[3] == "," and not often[4])


def _may_be_none(often: re.Match[str]) -> bool:
    return often[1] in ("*", "?") or (often[2] is not None and not often[2].strip("0"))
