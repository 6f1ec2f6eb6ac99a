"""One running engine process: started on a leash, its log lines made ours, ended for good.

The engine's standard output and error come out as lines of the logger `forebay.engine`, with vLLM's own level, the
engine's name, and no control characters. Lines that tell of exhausted memory are counted.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from forebay.engines.spec import EngineSpec
from forebay.engines.waiting import Waiting

log = logging.getLogger("forebay.engine")

LEASH = Path(__file__).with_name("leash.py")
MAX_LINE_BYTES = 8192
READ_BYTES = 65_536

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_VLLM_LINE = re.compile(
    r"(?:\((?P<process>[^)]*)\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ (?P<message>.*)"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError|Cannot allocate memory", re.IGNORECASE)
_LEVELS = logging.getLevelNamesMapping()
KILLED = 128 + signal.SIGKILL
_PARENT, _USER_TIME, _SYSTEM_TIME, _RESIDENT_PAGES = 1, 11, 12, 21  # fields of /proc/PID/stat behind the name


class EngineProcess:
    """A process and what it has said. Made by `spawn`."""

    def __init__(self, spec: EngineSpec, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self._spec = spec
        self._process = process
        self._lifeline: int | None = lifeline
        self._reading = asyncio.create_task(self._read_lines())
        self._killed_by_us = False
        self._waiting = Waiting()
        self.oom_events = 0
        self.last_error = ""

    def __repr__(self) -> str:
        return f"<EngineProcess {self._spec.name} pid={self.pid} status={self._process.returncode}>"

    @property
    def pid(self) -> int:
        """The leash's process id."""
        return self._process.pid

    @classmethod
    async def spawn(cls, spec: EngineSpec) -> "EngineProcess":
        """Start the engine. A stale socket file, which vLLM would trip over, is removed first. Raises OSError."""
        if spec.uds is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(spec.uds)
        theirs, ours = os.pipe()
        os.set_inheritable(theirs, True)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(LEASH),
                str(theirs),
                "--",
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(spec.env),
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C in the terminal is for Forebay, which drains first
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(spec, process, ours)

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.returncode is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and everything it started: the leash sees the pipe close."""
        self._killed_by_us = True
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    async def wait(self) -> int:
        """Wait until it and its output have ended; return its exit status, 128 + n for signal n."""
        status = await self._process.wait()
        await self._reading
        killed, self._killed_by_us = self._killed_by_us, True
        if self._lifeline is not None:
            self.kill()
        if status == KILLED and not killed:
            self.oom_events += 1  # SIGKILL that was not ours: the kernel's out-of-memory killer, as a rule
        return status if status >= 0 else 128 - status

    def busy_seconds(self) -> float:
        """Time that the engine's threads have computed, or have waited for a processor that others were using."""
        stats = list(self._stats())
        ticks = sum(int(fields[_USER_TIME]) + int(fields[_SYSTEM_TIME]) for _, fields in stats)
        return ticks / os.sysconf("SC_CLK_TCK") + self._waiting.seconds(directory for directory, _ in stats)

    def resident_bytes(self) -> int:
        """Memory that they hold; what they share is counted for each."""
        return sum(int(fields[_RESIDENT_PAGES]) for _, fields in self._stats()) * os.sysconf("SC_PAGE_SIZE")

    def _stats(self) -> Iterator[tuple[Path, list[str]]]:
        """/proc/PID of every process below the leash, and what its stat says from the third field on."""
        children: dict[int, list[tuple[Path, list[str]]]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                fields = stat.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[_PARENT]), []).append((stat.parent, fields))
        parents = [self.pid]  # an orphan's parent is the leash
        while parents:
            for directory, fields in children.get(parents.pop(), ()):
                parents.append(int(directory.name))
                yield directory, fields

    async def _read_lines(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while block := await self._process.stdout.read(READ_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._say(line)
            if len(rest) > MAX_LINE_BYTES:
                self._say(rest)
                rest = b""
        if rest:
            self._say(rest)

    def _say(self, raw: bytes) -> None:
        text = _ESCAPES.sub("", raw[:MAX_LINE_BYTES].decode("utf-8", "replace")).rstrip()
        if not text:
            return
        found = _VLLM_LINE.match(text)
        level = _LEVELS[found["level"]] if found else logging.INFO
        message = found["message"] if found else text
        if _OUT_OF_MEMORY.search(text):
            self.oom_events += 1
        if level >= logging.ERROR or (found is None and ("Error" in text or " error: " in text)):
            self.last_error = message
        log.log(level, message, extra={"engine": self._spec.name})
