"""What a check says: the matter, how it stands, and what to do where it does not stand well."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a matter stands: `warning` works and may surprise, `wrong` does not work."""

    ok = "ok"
    warning = "warning"
    wrong = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line for people; `fix` says what to do, on one line too."""

    check: str
    level: Level
    told: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def ok(check: str, told: str) -> Finding:
    return Finding(check, Level.ok, told)


def warning(check: str, told: str, fix: str) -> Finding:
    return Finding(check, Level.warning, told, fix)


def wrong(check: str, told: str, fix: str) -> Finding:
    return Finding(check, Level.wrong, told, fix)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
