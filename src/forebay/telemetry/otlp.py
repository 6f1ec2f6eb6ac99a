"""Spans → an OTLP receiver, by OpenTelemetry's own exporters and batches, in a thread of their own.

No more than `MOST_WAITING` spans wait: while the receiver is away or slow, those of further requests are dropped and
counted, and no request is held up. That it is away is logged once, and once that it is back.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger("forebay.tracing")

MOST_WAITING = 4096
SPANS_A_BATCH = 64  # while they are encoded nothing else runs, so it must not take long
SEND_EVERY_S = 1.0
CLOSE_WITHIN_S = 2.0


class OtlpSink:
    """Takes spans and never waits."""

    def __init__(self, url: str, protocol: Literal["grpc", "http/protobuf"]) -> None:
        self._exporter = _Watched(_grpc(url) if protocol == "grpc" else _http(url), url)
        self._taken = 0
        self.dropped = 0
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MOST_WAITING,
            schedule_delay_millis=SEND_EVERY_S * 1000,
            max_export_batch_size=SPANS_A_BATCH,
        )

    def __repr__(self) -> str:
        return f"<OtlpSink {self.counts}>"

    @property
    def counts(self) -> dict[str, int]:
        """How many spans there were, by what became of them."""
        return {"sent": self._exporter.sent, "failed": self._exporter.failed, "dropped": self.dropped}

    def take(self, spans: Sequence[ReadableSpan]) -> None:
        """Queue the spans of one request: all, or none where they would be too many."""
        waiting = self._taken - self._exporter.sent - self._exporter.failed
        if waiting + len(spans) > MOST_WAITING:
            self.dropped += len(spans)
            return
        self._taken += len(spans)
        for span in spans:
            self._processor.on_end(span)

    async def close(self) -> None:
        """Send what waits, and end; a receiver that does not take it in time is given up."""
        closing = threading.Thread(target=self._processor.shutdown, name="traces-closing", daemon=True)
        closing.start()
        await _ended(closing, CLOSE_WITHIN_S)
        self._exporter.shutdown()
        await _ended(closing, CLOSE_WITHIN_S / 4)


class _Watched(SpanExporter):
    """An exporter whose results are counted. Called by the sending thread, read by others."""

    def __init__(self, exporter: SpanExporter, url: str) -> None:
        self._exporter = exporter
        self._url = url
        self._words = _LastWords()
        self._away = self._ended = False
        self.sent = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 (else they would count as waiting for ever)
            self._words.last, result = repr(error), SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            if self._away:
                log.info("traces are sent again", extra={"to": self._url})
        else:
            self.failed += len(spans)
            if not self._away:
                log.warning("traces cannot be sent", extra={"to": self._url, "why": self._words.last})
        self._away = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()
            self._words.close()


class _LastWords(logging.Handler):
    """Keeps what OpenTelemetry logged last: it says the same thing many times over while a receiver is away."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:500]

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = not self._logger.handlers
        super().close()


async def _ended(thread: threading.Thread, within_s: float) -> None:
    until = monotonic() + within_s
    while thread.is_alive() and monotonic() < until:
        await asyncio.sleep(0.01)


def _grpc(url: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=url, insecure=url.startswith("http://"))


def _http(url: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=url)
