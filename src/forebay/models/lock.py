"""One process at a time: a lock file, which the kernel lets go of when its last holder ends, however that happens."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


@contextmanager
def only_one(path: Path, say: Say) -> Iterator[int]:
    """Hold the lock file, telling `say` where that means waiting; the descriptor may be given to children."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making the model ready; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
