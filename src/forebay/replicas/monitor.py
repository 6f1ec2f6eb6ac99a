"""Keeps a remote replica's `ready` and `models` true, by asking it.

A replica is taken in when `/v1/models` names a model; after a stall, only once it has generated again. It is taken out
when it refuses connections or answers `/health` with anything but 200, twice in a row: a time-out proves nothing, since
a saturated engine answers late, nor does it when we ourselves have no file descriptor left to ask with. (Stalls under
load are found by `gateway/stalls.py`.) Which models it serves is asked with its health: another engine may have come to
its address.

A replica that has had nothing to do for us for a while is asked for one token, since `/health` would not tell that it
hangs. If that does not come in time, and the step counter, where it can be read, has not moved either, it has stalled.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

import msgspec

from forebay.failures import Failure
from forebay.replicas.replica import Replica
from forebay.upstream.fetch import fetch
from forebay.upstream.questions import check_health, count_steps, generate_once

log = logging.getLogger("forebay.replicas")

STRIKES = 2
PROVE_NOTHING = frozenset({"timeout", "local"})


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Card]


_models_decoder = msgspec.json.Decoder(_Models)


async def learn_models(replica: Replica, timeout_s: float) -> None:
    """Ask a replica which models it serves and remember them. Raises `Failure`."""
    request = replica.request_head(b"GET", b"/v1/models") + b"\r\n"
    status, body = await fetch(replica.upstream, request, timeout_s)
    if status != 200:
        raise Failure("invalid", f"/v1/models answered {status}")
    try:
        cards = _models_decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Failure("invalid", "/v1/models is not a list of models") from None
    replica.models = {
        card.id: {"id": card.id, **({"max_model_len": card.max_model_len} if card.max_model_len else {})}
        for card in cards
    }


async def watch(
    replica: Replica,
    *,
    interval_s: float,
    timeout_s: float,
    idle_probe_s: float,
    on_change: Callable[[Replica], None],
) -> None:
    """Check a replica for ever; `on_change` is told when it joins, leaves or serves other models."""
    strikes, quiet_since = 0, monotonic()
    while True:
        try:
            if not replica.ready or replica.in_flight:
                quiet_since = monotonic()
            if not replica.ready:
                await _see_whether_it_works(replica, timeout_s)
                _set_ready(replica, True, "answers", on_change)
            elif monotonic() - quiet_since < idle_probe_s:
                await check_health(replica.upstream, timeout_s, replica.api_key)
                await _follow_models(replica, timeout_s, on_change)
            else:
                await _probe(replica, timeout_s)
                quiet_since = monotonic()
            strikes = 0
        except Failure as failure:
            strikes += 1
            if not replica.ready:
                replica.why = str(failure)
            elif failure.kind == "stalled":
                replica.has_stalled(str(failure))
                _set_ready(replica, False, str(failure), on_change)
            elif failure.kind not in PROVE_NOTHING and strikes >= STRIKES:
                _set_ready(replica, False, str(failure), on_change)
        await asyncio.sleep(interval_s if replica.ready else min(interval_s, 1.0))


async def _see_whether_it_works(replica: Replica, timeout_s: float) -> None:
    """Return if it may be asked. Raises `Failure`."""
    await learn_models(replica, timeout_s)
    if replica.suspect and replica.models:
        await generate_once(replica.upstream, next(iter(replica.models)), timeout_s, replica.api_key)
        replica.suspect = False


async def _follow_models(replica: Replica, timeout_s: float, on_change: Callable[[Replica], None]) -> None:
    """Another engine may have taken its address meanwhile, and refused no connection. Raises `Failure`."""
    before = replica.models
    await learn_models(replica, timeout_s)
    if replica.models != before:
        log.warning("replica serves other models", extra={"replica": replica.name, "models": list(replica.models)})
        on_change(replica)


async def _probe(replica: Replica, timeout_s: float) -> None:
    """Ask for one token. Raises `Failure`, `stalled` where neither it comes nor anything else moves."""
    model = next(iter(replica.models), None)
    if model is None:
        return
    before = await _steps(replica, timeout_s)
    try:
        await generate_once(replica.upstream, model, replica.progress.stall_s, replica.api_key)
    except Failure as failure:
        if failure.kind != "timeout":
            raise
        after = await _steps(replica, timeout_s)
        if after is None or after == before:
            raise Failure("stalled", f"stalled: no token within {replica.progress.stall_s:g} s though idle") from None


async def _steps(replica: Replica, timeout_s: float) -> float | None:
    try:
        return await count_steps(replica.upstream, timeout_s, replica.api_key)
    except Failure:
        return None


def _set_ready(replica: Replica, ready: bool, why: str, on_change: Callable[[Replica], None]) -> None:
    replica.ready, replica.why = ready, why
    log.log(
        logging.INFO if ready else logging.WARNING,
        "replica joined" if ready else "replica left",
        extra={"replica": replica.name, "why": why, "models": list(replica.models)},
    )
    on_change(replica)
