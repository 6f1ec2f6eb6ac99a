"""What is examined."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that `forebay doctor --help` need not load them
    from forebay.config.settings import Settings


class Role(StrEnum):
    """What is to run here."""

    serve = "serve"
    gateway = "gateway"
    engine = "engine"


@dataclass(frozen=True)
class Patient:
    """What is examined. `url`: a running gateway or engine whose clock is compared with ours."""

    settings: "Settings"
    role: Role
    engine_python: Path
    url: str | None = None
    quick: bool = False  # leave out what takes long: importing the engine
