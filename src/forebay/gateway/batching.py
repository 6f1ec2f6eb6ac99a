"""The batches of a gateway: it takes those that nobody is at, and goes on with them from where they are.

One of each tenant at a time, a few in all; together they ask at most `batch_concurrency` lines at once.
"""

import asyncio
import logging
from contextlib import suppress
from time import monotonic, time

from sqlalchemy.exc import SQLAlchemyError

from forebay.config.places import data_file
from forebay.config.settings import Settings
from forebay.gateway.batch_run import BatchRun
from forebay.gateway.pipeline import Pipeline
from forebay.policy.auth import KeyLimits
from forebay.store.batches import Batches
from forebay.store.database import Database, why
from forebay.store.files import DAY_S, Files

log = logging.getLogger("forebay.batches")

MOST_AT_ONCE = 8  # batches
LOOK_EVERY_S = 1.0
SWEEP_EVERY_S = 3600.0
KNOWN_WITHIN_S = 30.0
CLOSE_S = 3.0


class Batching:
    """Files, batches, and what runs them. Made where there is a database."""

    def __init__(self, settings: Settings, database: Database, pipeline: Pipeline, default: KeyLimits) -> None:
        root = (settings.files_dir or data_file("files")) / database.place
        self.files = Files(
            database, root, most_bytes=settings.max_tenant_file_bytes, keep_s=float(settings.file_days * DAY_S)
        )
        self.batches = Batches(database, default)
        self.pipeline = pipeline
        self.most_at_once = settings.batch_concurrency
        self.most_lines = settings.max_batch_lines
        self.most_line_bytes = settings.max_body_bytes
        self.lease_s = settings.batch_lease_s
        self.places = asyncio.Semaphore(settings.batch_concurrency)
        self.counted = {True: 0, False: 0}  # lines written, by whether they were answered
        self.runs: dict[str, asyncio.Task[None]] = {}  # by tenant
        self._news = asyncio.Event()
        self._away = False

    def __repr__(self) -> str:
        return f"<Batching {len(self.runs)} batches>"

    def wake(self) -> None:
        """There may be something to do."""
        self._news.set()

    async def run(self) -> None:
        """Take batches up, for ever."""
        await self._engines_known()
        swept_at = -SWEEP_EVERY_S
        while not self.pipeline.draining:
            self._news.clear()
            try:
                if monotonic() - swept_at >= SWEEP_EVERY_S:
                    await asyncio.to_thread(self.files.sweep, time())
                    swept_at = monotonic()
                await self._take()
                self._away = False
            except (SQLAlchemyError, OSError) as failure:
                if not self._away:
                    log.error("no batch can be taken up", extra={"why": why(failure)})
                self._away = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_EVERY_S)

    async def close(self) -> None:
        """Return when what was answered is written down, or it takes too long."""
        if self.runs:
            _, slow = await asyncio.wait(self.runs.values(), timeout=CLOSE_S)
            for run in slow:
                run.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _take(self) -> None:
        while len(self.runs) < MOST_AT_ONCE and not self.pipeline.draining:
            batch = await asyncio.to_thread(self.batches.take, self.lease_s, list(self.runs))
            if batch is None:
                return
            log.info("a batch is taken up", extra={"batch": batch.id, "tenant": batch.tenant, "run": batch.run})
            run = self.runs[batch.tenant] = asyncio.create_task(BatchRun(self, batch).run())
            run.add_done_callback(lambda run, tenant=batch.tenant: self._over(tenant, run))  # type: ignore[misc]

    def _over(self, tenant: str, run: "asyncio.Task[None]") -> None:
        del self.runs[tenant]
        if not run.cancelled() and (bug := run.exception()) is not None:
            log.error("a batch cannot go on", exc_info=bug)
        self.wake()

    async def _engines_known(self) -> None:
        """Wait until the models of all engines are known, or some are down: a model must not be missed by a moment."""
        until = monotonic() + KNOWN_WITHIN_S
        replicas = self.pipeline.replicas
        while monotonic() < until and not (replicas.ready and all(replica.models for replica in replicas)):
            await asyncio.sleep(0.1)
