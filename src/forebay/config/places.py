"""Where Forebay keeps what it can make again."""

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
