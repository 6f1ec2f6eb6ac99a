"""How a batch ends: what is finished becomes its files, and its row says so, in one transaction.

Until then nobody sees the files, and whoever is killed on the way, or thought dead, leaves the batch as it was.
"""

import logging
import shutil
from time import time
from typing import Literal

import msgspec
from sqlalchemy import Connection

from forebay.store.batch_input import Lines
from forebay.store.batches import Batch, Batches
from forebay.store.files import Files
from forebay.store.journal import Journal, finished, lines
from forebay.wire.batch_lines import error_line, keep, read_line

log = logging.getLogger("forebay.batches")

Why = Literal["", "draining", "lost", "cancelled", "expired", "revoked"]
_STATUS = {"": "completed", "cancelled": "cancelled", "expired": "expired", "revoked": "failed"}
_EXPIRED = "This request could not be executed before the completion window expired."
_REVOKED = [{"code": "key_revoked", "message": "The key that asked for this batch may ask no more."}]


def end(batches: Batches, files: Files, batch: Batch, why: Why) -> None:
    """End a batch, because all is done or for another reason. Raises `NotOurs`."""
    if why in ("", "expired") and batches.advance(batch, "finalizing", finalizing_at=time()) == "cancelling":
        why = "cancelled"
    if why == "expired" and not _expire(files, batch):
        why = ""
    places = finished(files.journal(batch.id))
    made = {ok: files.output_id(f"{batch.id} {batch.run} {ok}", batch.created_at) for ok in (True, False)}
    made = {ok: file_id for ok, file_id in made.items() if any(place.ok is ok for place in places.values())}
    for ok, file_id in made.items():
        files.write(files.path(batch.tenant, file_id), lines(places, ok=ok))

    def show(connection: Connection) -> None:
        for ok, file_id in made.items():
            name = f"{batch.id}_{'output' if ok else 'error'}.jsonl"
            files.add_output(connection, batch.tenant, file_id, name, time())

    completed = sum(place.ok for place in places.values())
    batches.change(
        batch,
        show,
        status=_STATUS[why],
        errors=msgspec.json.encode(_REVOKED).decode() if why == "revoked" else None,
        completed=completed,
        failed=len(places) - completed,
        output_file=made.get(True),
        error_file=made.get(False),
        ended_at=time(),
        held_until=0.0,
    )
    shutil.rmtree(files.journal(batch.id), ignore_errors=True)
    what = {"batch": batch.id, "tenant": batch.tenant, "status": _STATUS[why]}
    log.info("a batch is over", extra={**what, "completed": completed, "failed": len(places) - completed})


def _expire(files: Files, batch: Batch) -> bool:
    """Write down of what is not finished that its time is over; return whether there was any."""
    directory = files.journal(batch.id)
    source = Lines(files.path(batch.tenant, batch.input_file), finished(directory))
    journal = Journal(directory, batch.run)
    found = False
    try:
        while some := source.some():
            found = True
            journal.write(keep(number, False, _expired(f"{batch.id}-{number}", text)) for number, text in some)
    finally:
        source.close()
        journal.end()
    return found


def _expired(name: str, text: bytes) -> bytes:
    return error_line(name, read_line(text).custom_id, "batch_expired", _EXPIRED)
