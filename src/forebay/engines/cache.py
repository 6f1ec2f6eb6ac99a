"""The directory in which an engine keeps compiled code between starts, and whether it was found warm.

vLLM keeps torch.compile's, Triton's and its own caches below VLLM_CACHE_ROOT. Each model, version and set of options
has a directory of its own (`spec.cache_key`), so that what one start compiled is what the next one finds. A start that
came to READY leaves a marker there: a directory with one is warm. Everything here blocks: call it off the event loop.
"""

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger("forebay.engine")

MARKER = "forebay-ready"


class CompileCache:
    """One engine's. `warm` tells of the latest start, `bytes` of the last look."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.warm = False
        self.bytes = 0

    def __repr__(self) -> str:
        return f"<CompileCache {self._directory.name} {self.state} {self.bytes} bytes>"

    @property
    def key(self) -> str:
        return self._directory.name

    @property
    def state(self) -> str:
        return "warm" if self.warm else "cold"

    def opened(self) -> None:
        """The engine is about to start."""
        self.warm = (self._directory / MARKER).is_file()
        self.bytes = _bytes_below(self._directory)

    def completed(self) -> None:
        """The engine came to READY."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            (self._directory / MARKER).touch()
        except OSError as failure:
            log.warning("compile cache not kept", extra={"directory": str(self._directory), "why": str(failure)})
        self.bytes = _bytes_below(self._directory)


def _bytes_below(directory: Path) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
