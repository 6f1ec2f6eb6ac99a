"""An engine's own timings of one request, where it tells them (vLLM's `--enable-per-request-metrics`).

They stand in `metrics` of an answer, of a stream's last event but one, and of the `response` that events of the
Responses API bring. They are looked for by `MARK` first: most answers have none, and looking is all that costs.
"""

import msgspec

MARK = b'"metrics":{'


class Timings(msgspec.Struct, gc=False):
    """Milliseconds: in the engine's own queue, to the first token behind that, generating behind that; and how fast."""

    queue_time_ms: float | None = None
    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None
    mean_itl_ms: float | None = None
    tokens_per_second: float | None = None


def read_s(timings: Timings) -> float | None:
    """How long an engine took to read a prompt, from when it came, seconds; None where it does not tell."""
    if timings.time_to_first_token_ms is None:
        return None
    return (timings.time_to_first_token_ms + (timings.queue_time_ms or 0.0)) / 1000


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_timings = msgspec.json.Decoder(Timings)


def taken_from(answer: bytes | bytearray) -> tuple[Timings | None, bytes | bytearray]:
    """The timings in an answer or in an event's data, and what is left of it without; itself where there are none."""
    try:
        whole = _object.decode(answer)
        if "metrics" in whole:
            timings = _timings.decode(whole.pop("metrics"))
        else:
            inner = _object.decode(whole["response"])
            timings = _timings.decode(inner.pop("metrics"))
            whole["response"] = msgspec.Raw(msgspec.json.encode(inner))
    except (msgspec.MsgspecError, RecursionError, KeyError):
        return None, answer
    return timings, msgspec.json.encode(whole)
