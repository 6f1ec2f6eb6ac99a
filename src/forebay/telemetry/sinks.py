"""Where log lines go: standard error, or a file that is put aside when it is large and begun anew when it is gone.

Only the log writer's thread calls these. Every failure is an OSError, and what could not be written can be tried again.
"""

import contextlib
import logging
import os
import stat
from pathlib import Path
from time import monotonic
from typing import Protocol

log = logging.getLogger("forebay.log")

LOOK_EVERY_S = 1.0
NO_ROTATION_S = 60.0


class Sink(Protocol):
    """Takes bytes."""

    def renew(self, coming: int) -> bool: ...
    def write(self, data: memoryview) -> int: ...
    def reopen(self) -> None: ...


class Descriptor:
    """An open file that is not ours, such as standard error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def renew(self, _coming: int) -> bool:
        return False

    def write(self, data: memoryview) -> int:
        return os.write(self._number, data)

    def reopen(self) -> None:
        pass


class LogFile:
    """A file by its name. Raises OSError where it cannot be opened.

    One that others have moved or deleted, with its directory even, is made again within `LOOK_EVERY_S`, or at once when
    `reopen` is called. What is no regular file (a pipe, a device) is left as it is; a pipe that nobody reads holds
    nothing up.
    """

    def __init__(self, path: Path, max_bytes: int = 0, backups: int = 0) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._look_at = 0.0
        self._rotate_from = 0.0
        self._descriptor = -1
        self._open()
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if self._regular:
            self._path = Path(os.path.realpath(path))  # beside which there is room for those put aside

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def reopen(self) -> None:
        """Look for the file again before the next line."""
        self._look_at = 0.0

    def renew(self, coming: int) -> bool:
        """Before so many bytes are written: begin the file anew, if it is time. Returns whether it is another now."""
        if not self._regular:
            return False
        if self._descriptor < 0 or monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK_EVERY_S
            if not self._is_there():
                self._open()
                return True
        return self._max_bytes > 0 and self._is_full(coming) and self._rotate()

    def write(self, data: memoryview) -> int:
        return os.write(self._descriptor, data)

    def _is_there(self) -> bool:
        try:
            named, ours = os.stat(self._path), os.fstat(self._descriptor)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)

    def _is_full(self, coming: int) -> bool:
        size = os.fstat(self._descriptor).st_size
        return size > 0 and size + coming > self._max_bytes and monotonic() >= self._rotate_from

    def _rotate(self) -> bool:
        """Put the file aside and begin another. Where it cannot be moved, it grows on."""
        try:
            for number in range(self._backups - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(self._backup(number), self._backup(number + 1))
            if self._backups:
                os.replace(self._path, self._backup(1))
            else:
                os.unlink(self._path)
        except OSError as failure:
            self._rotate_from = monotonic() + NO_ROTATION_S
            log.warning("the log file cannot be put aside, and grows", extra={"why": str(failure)})
            return False
        self._look_at = 0.0  # should it not open now
        self._open()
        return True

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        if self._path.is_fifo():
            flags = os.O_RDWR | os.O_NONBLOCK  # opened to write alone it would wait for a reader
        descriptor = os.open(self._path, flags, 0o640)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
