"""Read a model's weights into the page cache, so that an engine that starts next reads them from memory.

The kernel is told ahead what comes next, and the bytes are read, not only asked for: when this is done they are there.
What does not fit into memory is refused: the end would push the beginning out again.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHUNK_BYTES = 16 * 1024 * 1024
AHEAD_BYTES = 4 * CHUNK_BYTES
_READERS = 4
_CGROUP = Path("/sys/fs/cgroup")


def preload(paths: Iterable[Path], progress: Callable[[int], None]) -> None:
    """Read the files, some at a time; `progress` is told of bytes. Raises OSError."""
    with ThreadPoolExecutor(_READERS) as pool:
        for done in [pool.submit(_read, path, progress) for path in paths]:
            done.result()


def available_bytes(meminfo: str, cgroup: Path = _CGROUP) -> int:
    """Memory that the page cache may take: what the system has, and no more than the container may use."""
    lines = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return min(free, limit - int(used["anon"]))
    except (OSError, ValueError, KeyError):  # no limit, or none that we may see
        return free


def _read(path: Path, progress: Callable[[int], None]) -> None:
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        at = 0
        while True:
            os.posix_fadvise(file.fileno(), at, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            if not (count := file.readinto(buffer)):
                return
            at += count
            progress(count)
