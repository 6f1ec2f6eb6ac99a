"""Log lines: JSON, or readable text on a terminal, written by a thread so that a slow or blocked sink holds nobody up.

Everything goes through one `LogWriter`: the standard library's loggers by way of `LineHandler`, access lines directly.
Its queue is bounded; what does not fit is dropped and counted. A line is always one line: JSON escapes control
characters, and the text form does the same.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from forebay.config.settings import Settings
    from forebay.telemetry.recorder import AccessLine

MAX_QUEUED_LINES = 20_000
LINES_A_WRITE = 500
FLUSH_EVERY_S = 0.1
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_encoder = msgspec.json.Encoder(enc_hook=str)


class LogWriter:
    """Takes lines from any thread and writes them in batches from its own."""

    def __init__(self, descriptor: int, *, text: bool) -> None:
        self._descriptor = descriptor
        self._render = _as_text if text else _as_json
        self._lines: deque[bytes] = deque()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float = 2.0) -> None:
        """Write what is queued and end; gives up on a sink that does not take it `within_s` seconds."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def write(self, line: "dict[str, Any] | AccessLine") -> None:
        """Queue a line. It is rendered here, by the caller: a thread that renders would hold the GIL against it."""
        if len(self._lines) >= MAX_QUEUED_LINES:
            self.dropped += 1
        else:
            self._lines.append(self._render(line))

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(FLUSH_EVERY_S)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), LINES_A_WRITE))]
            self._write_all(b"".join(batch))

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                time.sleep(FLUSH_EVERY_S)
            except OSError:  # nobody to tell: the sink itself is what failed
                self.dropped += data.count(b"\n")
                return


class LineHandler(logging.Handler):
    """Hands the standard library's records to a `LogWriter`; what a record's `extra` says becomes fields."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        self._writer.write(fields)


def start_logging(settings: "Settings") -> LogWriter:
    """Send all logging to the sink that the settings name, and return its writer, which must be stopped at the end.

    Raises OSError where the log file cannot be opened.
    """
    descriptor = sys.stderr.fileno() if settings.log_file is None else _open(settings.log_file)
    text = settings.log_format == "text" or (settings.log_format == "auto" and os.isatty(descriptor))
    writer = LogWriter(descriptor, text=text)
    root = logging.getLogger()
    root.handlers = [LineHandler(writer)]
    root.setLevel(settings.log_level.upper())
    logging.getLogger("uvicorn").setLevel("WARNING")
    logging.getLogger("asyncio").setLevel("WARNING")
    writer.start()
    return writer


def _open(path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


def _as_json(line: Any) -> bytes:
    return _encoder.encode(line) + b"\n"


def _as_text(line: Any) -> bytes:
    fields = dict(line) if isinstance(line, dict) else msgspec.to_builtins(line)
    clock = time.strftime("%H:%M:%S", time.localtime(fields.pop("time")))
    level, message = fields.pop("level").upper(), fields.pop("message")
    fields.pop("logger", None)
    rest = " ".join(f"{key}={_plain(value)}" for key, value in fields.items())
    return f"{clock} {level:<7} {_plain(message)}{' ' if rest else ''}{rest}\n".encode()


def _plain(value: Any) -> str:
    """A value as text on one line, control characters escaped."""
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
