"""Programs that tests run and that are no Python packages."""

import shutil
from pathlib import Path

TOOLS = Path(__file__).parents[1] / ".venv" / "tools" / "usr" / "bin"


def program(name: str) -> str:
    """Where one is: unpacked by `scripts/install-tools.sh`, as `make test` does, or this machine's own."""
    found = shutil.which(name, path=TOOLS) or shutil.which(name)
    assert found, f"there is no {name}: run `make test`, or scripts/install-tools.sh requirements/tools.txt"
    return found
