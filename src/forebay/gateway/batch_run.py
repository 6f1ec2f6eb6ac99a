"""One batch, from where it is to its end, or to where this gateway has to leave it.

Its lines are asked over the pipeline, behind all who wait for an answer (`policy/pace.py` says how fast), and what is
answered is on disk before it counts (`store/journal.py`). Meanwhile the batch is held: a beat a second says that its
gateway lives, tells how far it is, and learns whether it was cancelled, taken over, or its key revoked.
"""

import asyncio
import logging
from time import monotonic, time
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from forebay.gateway.batch_end import Why, end
from forebay.gateway.inner import Answered, InnerCall
from forebay.gateway.routes import find_route
from forebay.policy.auth import Principal
from forebay.policy.pace import Pace, Verdict, judge
from forebay.store.batch_input import Lines, check
from forebay.store.batches import Batch, NotOurs
from forebay.store.journal import Journal, finished
from forebay.wire.batch_lines import answer_line, error_line, keep, read_line

if TYPE_CHECKING:
    from forebay.gateway.batching import Batching

log = logging.getLogger("forebay.batches")

BEAT_S = 1.0
LOOK_S = 0.5
_AFTER = b"retry-after: "


class BatchRun:
    """This gateway's turn at a batch."""

    def __init__(self, batching: "Batching", batch: Batch) -> None:
        self.batch = batch
        self._batching = batching
        self._pipeline = batching.pipeline
        self._path = batching.files.path(batch.tenant, batch.input_file)
        self._directory = batching.files.journal(batch.id)
        self._pace = Pace(batching.most_at_once)
        self._stop: Why = ""
        self._caller: Principal | None = None
        self._again: list[tuple[int, bytes]] = []
        self._tries: dict[int, int] = {}
        self._completed = self._failed = 0

    def __repr__(self) -> str:
        return f"<BatchRun {self.batch.id} {self._completed}+{self._failed}/{self.batch.total} {self._pace!r}>"

    async def run(self) -> None:
        """Bring it as far as it goes. Who fails at it keeps it until the lease is over, and may try again then."""
        beating = asyncio.create_task(self._beat_on())
        try:
            await self._go()
        except NotOurs:
            log.info("a batch was taken over", extra={"batch": self.batch.id})
        except (OSError, SQLAlchemyError) as failure:
            log.error(
                "a batch cannot go on; it will be tried again", extra={"batch": self.batch.id, "why": str(failure)}
            )
        finally:
            beating.cancel()

    async def _go(self) -> None:
        self._caller = await asyncio.to_thread(self._batching.batches.caller, self.batch, time())
        if self._caller is None:
            self._stop = "revoked"
        status = self.batch.status
        if status == "validating":
            status = await asyncio.to_thread(self._check)
        if status == "failed":
            return
        if status == "cancelling":
            self._stop = "cancelled"
        why = await self._write()
        if why == "draining":
            await asyncio.to_thread(self._beat, 0.0)
        elif why != "lost":
            await asyncio.to_thread(end, self._batching.batches, self._batching.files, self.batch, why)

    # While it is held
    async def _beat_on(self) -> None:
        lease_s = self._batching.lease_s
        until = monotonic() + lease_s
        while not self._stop:
            await asyncio.sleep(min(BEAT_S, lease_s / 3))
            begun = monotonic()
            try:
                await asyncio.to_thread(self._beat, lease_s)
                until = begun + lease_s
            except NotOurs:
                self._stop = "lost"
            except SQLAlchemyError:
                if monotonic() > until:
                    self._stop = "lost"

    def _beat(self, lease_s: float) -> None:
        batches = self._batching.batches
        status = batches.hold(self.batch, lease_s, completed=self._completed, failed=self._failed)
        caller = batches.caller(self.batch, time())
        if status == "cancelling":
            self._stop = "cancelled"
        elif caller is None:
            self._stop = "revoked"
        elif caller != self._caller:
            self._caller = caller

    def _why(self) -> Why:
        """Why to stop."""
        if self._stop:
            return self._stop
        if self._pipeline.draining:
            return "draining"
        return "expired" if time() >= self.batch.expires_at else ""

    # Before
    def _check(self) -> str:
        """Look whether the file is a batch; return the batch's status then."""
        limits = self._batching
        total, errors = check(self._path, self.batch.endpoint, limits.most_lines, limits.most_line_bytes)
        if errors:
            told = msgspec.json.encode(errors).decode()
            self._batching.batches.change(self.batch, status="failed", errors=told, ended_at=time(), held_until=0.0)
            log.info("a batch is no batch", extra={"batch": self.batch.id, "tenant": self.batch.tenant})
            return "failed"
        return self._batching.batches.advance(self.batch, "in_progress", total=total, in_progress_at=time())

    # Line by line
    async def _write(self) -> Why:
        """Have all lines asked that are not finished; return why not all are."""
        places = await asyncio.to_thread(finished, self._directory)
        self._completed = sum(place.ok for place in places.values())
        self._failed = len(places) - self._completed
        journal = Journal(self._directory, self.batch.run)
        source = Lines(self._path, places)
        try:
            return await self._ask_all(source, journal)
        finally:
            source.close()
            await journal.close()

    async def _ask_all(self, source: Lines, journal: Journal) -> Why:
        running: set[asyncio.Task[None]] = set()
        try:
            while not (why := self._why()):
                wait_s = self._pace.wait_s(monotonic())
                may = wait_s <= 0 and len(running) < self._pace.width
                line = await self._next(source) if may else None
                if line is not None:
                    running.add(asyncio.create_task(self._ask(*line, journal)))
                elif may and not running:
                    return ""
                else:
                    running = await _some_over(running, min(wait_s or LOOK_S, LOOK_S))
            while why == "draining" and running:
                running = await _some_over(running, LOOK_S)
            return why
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _next(self, source: Lines) -> tuple[int, bytes] | None:
        return self._again.pop() if self._again else await source.next()

    async def _ask(self, number: int, text: bytes, journal: Journal) -> None:
        """Ask one line, and write down what comes if that is its end."""
        line = read_line(text)
        name = f"{self.batch.id}-{number}"
        route = find_route(b"POST", line.url.encode())
        async with self._batching.places:
            if self._why():
                return
            assert self._caller is not None
            assert route is not None
            headers = {b"x-request-id": name.encode()}
            answered = await InnerCall(self._pipeline, self._caller, route, bytes(line.body), headers=headers).answer()
        exchange, tries = answered.exchange, self._tries.get(number, 0)
        verdict = judge(answered.status, exchange.error_code, asked=exchange.attempts > 0, tries=tries)
        if verdict is not Verdict.DONE:
            self._again.append((number, text))
            self._pace.refused(_retry_after_s(answered), monotonic())
            if verdict is Verdict.AGAIN:
                self._tries[number] = tries + 1
            return
        self._pace.answered()
        try:
            told, ok = (
                answer_line(name, line.custom_id, answered.status, exchange.request_id, answered.body),
                answered.ok,
            )
        except ValueError:
            told, ok = error_line(name, line.custom_id, "upstream_invalid_response", "The answer was no JSON."), False
        await journal.append(keep(number, ok, told))
        self._count(ok)

    def _count(self, ok: bool) -> None:
        if ok:
            self._completed += 1
        else:
            self._failed += 1
        self._batching.counted[ok] += 1


async def _some_over(running: set["asyncio.Task[None]"], wait_s: float) -> set["asyncio.Task[None]"]:
    """Wait until one of them is over, or for so long; return the others. Raises what one raised."""
    if not running:
        await asyncio.sleep(wait_s)
        return running
    over, rest = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    for task in over:
        task.result()
    return rest


def _retry_after_s(answered: Answered) -> float | None:
    _, found, rest = answered.lines.partition(_AFTER)
    return float(rest.partition(b"\r\n")[0]) if found else None
