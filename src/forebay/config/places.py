"""Where Forebay keeps what it can make again, and what it cannot."""

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """A directory kept between runs: below FOREBAY_HOME, else in the user's cache."""
    if home := env.get("FOREBAY_HOME"):
        return Path(home) / name
    if cache := env.get("XDG_CACHE_HOME"):
        return Path(cache) / "forebay" / name
    return Path.home() / ".cache" / "forebay" / name


def data_file(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """A file that must not be lost: below FOREBAY_HOME, else among the user's data."""
    if home := env.get("FOREBAY_HOME"):
        return Path(home) / name
    if data := env.get("XDG_DATA_HOME"):
        return Path(data) / "forebay" / name
    return Path.home() / ".local" / "share" / "forebay" / name
