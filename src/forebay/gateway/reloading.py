"""Settings that change while the gateway runs: on SIGHUP, and when their file has changed.

The file is read whole and validated first, in a thread; then everything hot is swapped in one step of the event loop,
so that no request sees half of it. Where anything is wrong nothing changes, and the log, a metric and /health say why.
The watch waits until a changed file has stayed the same for one look more: it may be half-written. A file that is
empty, gone, or changed while it was read is not followed either.
"""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forebay.config.reload import CannotFollow, Changes, follow
from forebay.config.settings import Settings
from forebay.config.sources import Loader, SettingsError
from forebay.gateway.tuning import Tuning
from forebay.store.audit import Actor

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

log = logging.getLogger("forebay.config")

LOOK_EVERY_S = 1.0

Signature = tuple[int, int, int] | None


class Reloading:
    """One reload at a time, for one gateway. `why` is empty unless the latest failed."""

    def __init__(self, gateway: "Gateway", loader: Loader, look_every_s: float = LOOK_EVERY_S) -> None:
        self._gateway = gateway
        self._load = loader.load
        self._file = loader.file
        self._look_every_s = look_every_s
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._followed = signature(loader.file)
        self.counts = {"ok": 0, "failed": 0}
        self.why = ""
        self.waiting: tuple[str, ...] = ()  # settings whose change takes a restart

    def __repr__(self) -> str:
        return f"<Reloading {self._file} {self.counts} {self.why}>"

    def describe(self) -> dict[str, Any]:
        return {"reloads": self.counts, "why": self.why, "restart_needed": list(self.waiting)}

    def begin(self) -> None:
        """Read the settings again, as SIGHUP asks."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def watch(self) -> None:
        """Follow the file for ever."""
        last = self._followed
        while True:
            await asyncio.sleep(self._look_every_s)
            now = signature(self._file)
            if now == last and now != self._followed:
                await self.reload()
            last = now

    async def reload(self) -> bool:
        """Follow the settings as they are now; False where that cannot be done, and nothing has changed."""
        async with self._one_at_a_time:
            self._followed = signature(self._file)
            try:
                settings, changes, tuning = await asyncio.to_thread(self._prepare, self._gateway.settings)
            except (SettingsError, CannotFollow) as wrong:
                self._failed(str(wrong))
                return False
            except Exception:
                log.exception("reading the settings failed")
                self._failed("reading them failed; the log says why")
                return False
            self._gateway.change(settings, tuning)
            self._succeeded(changes)
            note = self._gateway.audit.note
            await asyncio.to_thread(note, Actor("settings file", ""), "settings.reloaded", str(self._file))
            return True

    def _prepare(self, running: Settings) -> tuple[Settings, Changes, Tuning]:
        before = signature(self._file)
        if before is not None and before[2] == 0:
            raise CannotFollow(f"{self._file}: is empty")
        wanted = self._load()
        if signature(self._file) != before:
            raise CannotFollow(f"{self._file}: changed while it was read")
        settings, changes = follow(running, wanted)
        try:
            of = self._gateway
            found = Tuning.of(settings, running.upstream, keys=of.keys, tokens=of.tokens, attempts=of.attempts)
            return settings, changes, found
        except (ValueError, OSError) as wrong:
            raise CannotFollow(f"upstream: {wrong}") from None

    def _succeeded(self, changes: Changes) -> None:
        self.counts["ok"] += 1
        self.why, self.waiting = "", changes.restart
        log.info("settings read again", extra={"changed": changes.hot, "restart_needed": changes.restart})

    def _failed(self, why: str) -> None:
        self.counts["failed"] += 1
        self.why = why
        log.error("the settings cannot be followed; nothing has changed", extra={"why": why})


def signature(file: Path | None) -> Signature:
    """What tells one version of a file from another; None where there is no file."""
    if file is None:
        return None
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
