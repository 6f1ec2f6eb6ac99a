"""From a gateway's tally to the ledger in the database, with nothing lost and nothing twice.

    event loop          takes the tally several times in `flush_s` and hands it over; it never waits
    thread "keep"       puts what it was handed into the spool: from here on a crash takes nothing
    thread "upload"     brings what is in the spool to the database, and what dead writers of this machine left behind

So the database may be away, locked or full for as long as the spool has room. Where that has no room, or its disk has
none, usage stays in memory, joined with what comes, and only entries beyond `MOST_ENTRIES` are dropped and counted.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time

from sqlalchemy.exc import DataError, IntegrityError

from forebay.config.places import data_file
from forebay.config.settings import Settings
from forebay.policy.usage import Entries, Tally, cut, join
from forebay.store import usage
from forebay.store.database import Database, why
from forebay.store.spool import Batch, Spool, open_spool, orphans, read

log = logging.getLogger("forebay.usage")

TAKES = 2  # in `flush_s`: so that what is taken is on disk too before it is over
MOST_AT_ONCE = 100  # batches in a transaction
RETRY_S = 1.0
LOOK_ROUND_S = 10.0
CLOSE_S = 3.0
DAY_S = 86_400
_REFUSED = (DataError, IntegrityError, OverflowError)  # by the database for what a batch says


class NoSpool(Exception):
    """There is no place to spool usage; the message says why and what to do."""


class Ledger:
    """One gateway's. Give it what is used through `tally`."""

    def __init__(self, database: Database, spool: Spool, *, flush_s: float, keep_s: float) -> None:
        self.tally = Tally()
        self.spool = spool
        self.dropped = 0  # requests
        self.failed_to_keep = self.failed_to_upload = 0
        self.caught_up = threading.Event()  # what dead writers of this machine left behind is in the database
        self._database = database
        self._flush_s = flush_s
        self._keep_s = keep_s
        self._since = time()
        self._threads = [
            threading.Thread(target=work, name=f"forebay-usage-{name}", daemon=True)
            for name, work in (("keep", self._keep), ("upload", self._upload))
        ]
        self._handed: queue.SimpleQueue[Entries | None] = queue.SimpleQueue()
        self._away = ""  # why the database does not take usage
        self._lock = threading.Lock()  # of `dropped`, which both threads count
        self._news = threading.Event()
        self._closing = threading.Event()

    def __repr__(self) -> str:
        return f"<Ledger {self.tally!r} {self.spool!r} {'away' if self._away else 'up'}>"

    # On the event loop
    def start(self) -> None:
        """Start the threads."""
        self._news.set()  # there may be some that dead writers left behind
        for thread in self._threads:
            thread.start()

    async def run(self) -> None:
        """Hand over what was used, for ever; at midnight (UTC) what belongs to the day before."""
        while True:
            await asyncio.sleep(min(self._flush_s / TAKES, DAY_S - self._since % DAY_S))
            self.hand_over()

    def hand_over(self) -> None:
        """Take the tally and give it to the thread that keeps."""
        if entries := self.tally.take(datetime.fromtimestamp(self._since, UTC).date().isoformat()):
            self._handed.put(entries)
        self._since = time()

    async def close(self) -> None:
        """Hand over the last of it and return when it is kept, and in the database if that can be quick."""
        self.hand_over()
        self._handed.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join, CLOSE_S)
            self._closing.set()
            self._news.set()

    # In the thread that keeps
    def _keep(self) -> None:
        kept: Entries = {}
        while (entries := self._next(again=bool(kept))) is not None:
            join(kept, entries)
            if self._put(kept):
                kept = {}
            elif dropped := cut(kept):
                self._drop(dropped, "too much of it waits in memory")
        if kept and not self._put(kept):
            self._drop(cut(kept, 0), "the gateway stops, and the spool takes none")

    def _next(self, *, again: bool) -> Entries | None:
        """What is handed over next; None at the end. Where something waits to be put `again`, not for long."""
        try:
            return self._handed.get(timeout=self._flush_s if again else None)
        except queue.Empty:
            return {}

    def _put(self, entries: Entries) -> bool:
        try:
            self.spool.put(entries, time())
        except OSError as failure:
            self.failed_to_keep += 1
            if self.failed_to_keep == 1 or self.failed_to_keep % 1000 == 0:
                log.error("usage cannot be spooled; it stays in memory", extra={"why": str(failure)})
            return False
        self._news.set()
        return True

    def _drop(self, requests: int, reason: str) -> None:
        with self._lock:
            self.dropped += requests
        log.error("usage was dropped", extra={"requests": requests, "why": reason})

    # In the thread that uploads
    def _upload(self) -> None:
        while not self._closing.is_set():
            if not self._away:
                self._news.wait(LOOK_ROUND_S)
            self._news.clear()
            self._bring()
            if self._away:
                self._closing.wait(RETRY_S)
        self._bring(last=True)

    def _bring(self, *, last: bool = False) -> None:
        """Bring everything that waits, what dead writers left behind first."""
        try:
            for orphan in orphans(self.spool.root):
                self._finish(orphan)
            if last:
                self._finish(self.spool)
            else:
                self._empty(self.spool)
        except Exception as failure:  # noqa: BLE001 (a bug must not end the thread: all usage would wait for ever)
            self.failed_to_upload += 1
            if not self._away:
                log.error("the database takes no usage; it is spooled", extra={"why": why(failure)})
            self._away = why(failure)
        else:
            if self._away:
                log.info("the database takes usage again")
            self._away = ""
            self.caught_up.set()

    def _finish(self, spool: Spool) -> None:
        """Empty a spool that is not written to any more, and let go of it."""
        try:
            self._empty(spool)
            with self._database.engine.begin() as connection:
                usage.forget(connection, spool.writer)
            spool.discard()
        finally:
            spool.close()

    def _empty(self, spool: Spool) -> None:
        while waiting := spool.waiting():
            for start in range(0, len(waiting), MOST_AT_ONCE):
                self._send(spool, waiting[start : start + MOST_AT_ONCE])

    def _send(self, spool: Spool, paths: Sequence[Path]) -> None:
        batches = [(path, batch) for path in paths if (batch := self._read(spool, path)) is not None]
        try:
            self._add(spool.writer, batches)
        except _REFUSED as refused:
            if len(batches) > 1:
                for path, _ in batches:
                    self._send(spool, [path])
                return
            self._set_aside(spool, batches[0][0], str(refused))
            return
        for path, _ in batches:
            spool.remove(path)

    def _add(self, writer: str, batches: Sequence[tuple[Path, Batch]]) -> None:
        if batches:
            with self._database.engine.begin() as connection:
                usage.add(connection, writer, ((int(path.stem), batch) for path, batch in batches))

    def _read(self, spool: Spool, path: Path) -> Batch | None:
        """A batch; None where it is of no use, and then it is out of the way."""
        try:
            batch = read(path)
        except ValueError as wrong:
            self._set_aside(spool, path, str(wrong))
            return None
        if batch.at < time() - self._keep_s:
            self._drop(batch.requests, "it waited longer than usage_spool_days")
            spool.remove(path)
            return None
        return batch

    def _set_aside(self, spool: Spool, path: Path, reason: str) -> None:
        place = spool.set_aside(path)
        log.error("a batch of usage is set aside", extra={"file": str(place), "why": reason[:300]})


def open_ledger(settings: Settings, database: Database) -> Ledger:
    """The ledger in a database, with a spool of its own. Raises `NoSpool`."""
    root = (settings.usage_spool_dir or data_file("usage")) / database.place
    try:
        spool = open_spool(root, settings.max_usage_spool_bytes)
    except OSError as failure:
        raise NoSpool(
            f"usage_spool_dir: {root} cannot be used: {failure.strerror or failure}; name another, or set usage_ledger "
            "to false"
        ) from None
    return Ledger(database, spool, flush_s=settings.usage_flush_s, keep_s=float(settings.usage_spool_days * DAY_S))
