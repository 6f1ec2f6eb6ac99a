"""Log lines: JSON, or readable text on a terminal, written by a thread so that a slow or blocked sink holds nobody up.

Everything goes through one `LogWriter`: the standard library's loggers by way of `LineHandler`, access lines directly.
Its queue is bounded. While the sink takes nothing, lines wait there; what does not fit is dropped and counted, and how
many is said when it takes lines again.

A line of the loggers that is written while a request is answered carries what `ABOUT` says of that request.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from forebay.telemetry.lines import TextLines, as_json
from forebay.telemetry.redaction import Redactor, places_of, secrets_of
from forebay.telemetry.sinks import Descriptor, LogFile, Sink

if TYPE_CHECKING:
    from forebay.config.settings import Settings
    from forebay.telemetry.recorder import AccessLine

MAX_QUEUED_LINES = 20_000
LINES_A_WRITE = 500
FLUSH_EVERY_S = 0.1
TRY_AGAIN_S = 1.0
MAX_TEXT = 8192
MAX_EXCEPTION = 16_384
_NEVER_AGAIN = frozenset({errno.EPIPE, errno.EBADF})  # nobody reads; there is nothing to wait for
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_OF_REQUESTS = frozenset({"asyncio", "uvicorn.error"})  # these tell of exceptions in what answers requests

ABOUT: ContextVar[dict[str, Any] | None] = ContextVar("ABOUT", default=None)


class LogWriter:
    """Takes lines from any thread and writes them in batches from its own. A number as `sink` is an open file's."""

    def __init__(
        self,
        sink: Sink | int,
        *,
        text: bool,
        terminal: bool = False,
        colour: bool = False,
        redactor: Redactor | None = None,
    ) -> None:
        self._sink = Descriptor(sink) if isinstance(sink, int) else sink
        self._render = TextLines(terminal=terminal, colour=colour) if text else as_json
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._said = 0  # of those dropped, how many have been told of
        self._why = "the lines came faster than they could be written"
        self.redactor = redactor or Redactor()
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """Write what is queued and end; gives up on a sink that does not take it `within_s` seconds."""
        self._give_up_at = time.monotonic() + within_s
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def write(self, line: "dict[str, Any] | AccessLine") -> None:
        """Queue a line. It is rendered here, by the caller: a thread that renders would hold the GIL against it."""
        if len(self._lines) >= MAX_QUEUED_LINES:
            self.dropped += 1
        else:
            self._lines.append(self._render(line))

    def reopen(self) -> None:
        """Have a log file that was moved made again now."""
        self._sink.reopen()
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(FLUSH_EVERY_S)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), LINES_A_WRITE))]
            if self._write_all(b"".join(batch)):
                self._tell_of_dropped()

    def _write_all(self, data: bytes) -> bool:
        """Write it, however often that has to be tried. Returns whether it is written."""
        view, at = memoryview(data), 0
        while at < len(data):
            try:
                if self._sink.renew(len(data) - at):
                    at = data.rfind(b"\n", 0, at) + 1  # a line is in one file as a whole
                at += self._sink.write(view[at:])
            except BlockingIOError:
                if self._waits_in_vain(FLUSH_EVERY_S):
                    break
            except OSError as failure:
                self._why = failure.strerror or str(failure)
                if failure.errno in _NEVER_AGAIN or self._waits_in_vain(TRY_AGAIN_S):
                    break
        self.dropped += data.count(b"\n", at)
        return at == len(data)

    def _waits_in_vain(self, seconds: float) -> bool:
        """Wait a moment for the sink; True where the process ends meanwhile, and that has waited long enough."""
        if not self._stopping.wait(seconds):
            return False
        time.sleep(FLUSH_EVERY_S)
        return time.monotonic() >= self._give_up_at

    def _tell_of_dropped(self) -> None:
        if (dropped := self.dropped) > self._said:
            fields = {"time": time.time(), "level": "warning", "logger": "forebay.log"}
            line = {**fields, "message": "log lines were dropped", "dropped": dropped - self._said, "why": self._why}
            self._said = dropped
            self._write_all(self._render(line))


class LineHandler(logging.Handler):
    """Hands the standard library's records to a `LogWriter`; what a record's `extra` says becomes fields.

    Here secrets are taken out, and no text is longer than it may be. A record that cannot be made a line becomes one
    that says so: logging fails no request.
    """

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self._fields(record))
        except Exception as bug:  # noqa: BLE001
            where = f"{record.filename}:{record.lineno}"
            told = {"message": "a log line could not be made", "where": where, "why": type(bug).__name__}
            self._writer.write({"time": record.created, "level": "error", "logger": record.name, **told})

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        hide = self._writer.redactor
        extra = {**(ABOUT.get() or {}), **{k: v for k, v in record.__dict__.items() if k not in _STANDARD}}
        message = record.getMessage()[: 4 * MAX_TEXT]
        if record.name in _OF_REQUESTS:
            message = message.partition("\n")[0]  # what follows are objects, as they print themselves
        fields: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(hide.text(message), MAX_TEXT),
        }
        for name, value in extra.items():
            told = hide.field(name, value)
            fields.setdefault(name, _cut(told, MAX_TEXT) if isinstance(told, str) else told)
        if record.exc_info and (error := record.exc_info[1]) is not None:
            of_request = "request_id" in fields or record.name in _OF_REQUESTS
            text = places_of(error) if of_request else logging.Formatter().formatException(record.exc_info)
            fields["exception"] = _cut_before(hide.text(text), MAX_EXCEPTION)
        return fields


def start_logging(settings: "Settings") -> LogWriter:
    """Send all logging to the sink that the settings name, and return its writer, which must be stopped at the end.

    Raises OSError where the log file cannot be opened.
    """
    if settings.log_file is None:
        sink: Sink = Descriptor(sys.stderr.fileno())
        terminal = os.isatty(sys.stderr.fileno())
    else:
        sink = file = LogFile(settings.log_file, settings.log_file_max_bytes, settings.log_file_backups)
        terminal = os.isatty(file.descriptor)
    text = settings.log_format == "text" or (settings.log_format == "auto" and terminal)
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")
    redactor = Redactor(secrets_of(settings))
    writer = LogWriter(sink, text=text, terminal=terminal, colour=colour, redactor=redactor)
    root = logging.getLogger()
    root.handlers = [LineHandler(writer)]
    root.setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")
    logging.captureWarnings(True)
    writer.start()
    return writer


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} more characters)"


def _cut_before(text: str, most: int) -> str:
    """The end of a text, which tells most of an exception."""
    return text if len(text) <= most else f"({len(text) - most} characters before) …{text[-most:]}"
