"""A file of requests asked of any gateway over HTTP, for `forebay batch`: from where it was left, however it was.

What is answered with 200 is appended to the output as it comes, in OpenAI's form; a line that is there is not asked
again. What failed is in a file beside it, which begins anew with each run: those are asked again. `policy/pace.py` says
how fast it goes, and what is worth another try.
"""

import fcntl
import http.client
import json
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from forebay.policy.pace import Pace, Verdict, judge
from forebay.wire.batch_lines import Line, answer_line, error_line, read_line, with_model

TIMEOUT_S = 600.0
MOST_FAILURES = 8  # in a row, over all connections: a gateway that restarts is waited for; one never seen is not
MOST_BACKOFF_S = 10.0
HOPELESS = (401, 403)


class Hopeless(Exception):
    """No line would be answered; the message says why."""


@dataclass
class Summary:
    """What a run did."""

    lines: int = 0
    skipped: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Asking:
    """Of whom, as whom, how much at once; with another model than the lines name."""

    url: str
    key: str | None
    concurrency: int
    model: str | None = None


@dataclass
class Files:
    """The three files of a run; opened, the output's finished lines are known."""

    source: Path
    output: Path
    finished: set[str] = field(default_factory=set)

    @property
    def errors(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.errors{self.output.suffix}")

    def open_output(self) -> BinaryIO:
        """The output, to go on with; a line that was cut short is taken out. Raises `Hopeless` or OSError."""
        self.output.touch()
        if self.output.samefile(self.source):
            raise Hopeless(f"{self.output}: holds the requests; name another output")
        output = self.output.open("r+b")
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Hopeless(f"{self.output}: another run is writing it") from None
        end = 0
        for text in output:
            if not text.endswith(b"\n"):
                break
            self.finished.add(_custom_id_of(text, self.output))
            end += len(text)
        output.truncate(end)
        output.seek(end)
        return output

    def left(self) -> Generator[Line, None, None]:
        """The requests that are not finished."""
        with self.source.open("rb") as source:
            for text in source:
                if text.strip() and (line := read_line(text)).custom_id not in self.finished:
                    yield line


class OfflineRun:
    """One run of a file. `told` is called, by any thread, after each line."""

    def __init__(self, files: Files, asking: Asking, summary: Summary, told: Callable[[], None]) -> None:
        self.summary = summary
        self._files = files
        self._asking = asking
        self._told = told
        self._pace = Pace(asking.concurrency)
        self._turn = threading.Condition()  # of all that follows
        self._lines = files.left()
        self._again: list[Line] = []
        self._tries: dict[str, int] = {}
        self._asked = 0
        self._failures = 0
        self._answered = False
        self._hopeless: Exception | None = None
        self._over = False

    def run(self, output: BinaryIO, errors: BinaryIO) -> None:
        """Ask all lines. Raises `Hopeless`; what is interrupted leaves whole lines behind."""
        begun = monotonic()
        self._output, self._errors = output, errors
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._asking.concurrency)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # not for ever: an interrupt would wait too
        finally:
            with self._turn:
                self._over = True
                self._lines.close()
            for file in (output, errors):
                file.flush()
                os.fsync(file.fileno())
            self.summary.seconds = round(monotonic() - begun, 3)
        if self._hopeless is not None:
            raise self._hopeless

    def _work(self) -> None:
        connection = _Connection(self._asking)
        try:
            while (line := self._next()) is not None:
                self._ask(connection, line)
        except Exception as failure:  # noqa: BLE001 (a thread's end must be known)
            self._give_up(failure)
        finally:
            connection.close()

    def _next(self) -> Line | None:
        """The next line, when it is its turn; None at the end."""
        with self._turn:
            while not self._over:
                wait_s = self._pace.wait_s(monotonic())
                if wait_s <= 0 and self._asked < self._pace.width:
                    line = self._again.pop() if self._again else next(self._lines, None)
                    if line is not None:
                        self._asked += 1
                        return line
                    if not self._asked:
                        self._over = True
                        self._turn.notify_all()
                        return None
                self._turn.wait(wait_s or None)
            return None

    def _ask(self, connection: "_Connection", line: Line) -> None:
        try:
            status, headers, body = connection.ask(line)
        except (OSError, http.client.HTTPException) as failure:
            connection.close()
            with self._turn:
                self._not_answered(line, failure)
                self._asked -= 1
                self._turn.notify_all()
            return
        with self._turn:
            self._failures, self._answered = 0, True
            if not self._over:
                self._take(line, status, headers, body)
            self._asked -= 1
            self._turn.notify_all()

    def _not_answered(self, line: Line, failure: Exception) -> None:
        self._again.append(line)
        self._failures += 1
        if not self._answered or self._failures > MOST_FAILURES:
            self._give_up(Hopeless(f"no answer from {self._asking.url}: {_why(failure)}; is a gateway running there?"))
        self._pace.refused(min(0.25 * 2**self._failures, MOST_BACKOFF_S), monotonic())

    def _take(self, line: Line, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        told = _object(body)
        error = told.get("error")
        error = error if isinstance(error, dict) else {}
        code = str(error.get("code") or "")
        if status in HOPELESS or code == "not_found" or (code == "insufficient_quota"):
            self._give_up(Hopeless(f"{self._asking.url} answered {status}: {error.get('message') or code or 'no'}"))
            return
        tries = self._tries.get(line.custom_id, 0)
        verdict = judge(status, code, asked=code == "engine_error", tries=tries)
        if verdict is Verdict.DONE:
            self._pace.answered()
            self._write(line, status, headers.get("x-request-id", ""), body, told)
            return
        self._again.append(line)
        if verdict is Verdict.AGAIN:
            self._tries[line.custom_id] = tries + 1
        self._pace.refused(_seconds(headers.get("retry-after")), monotonic())

    def _write(self, line: Line, status: int, request_id: str, body: bytes, told: dict[str, Any]) -> None:
        name, summary, ok = request_id or line.custom_id, self.summary, status == 200
        try:
            text = answer_line(name, line.custom_id, status, request_id, body)
        except ValueError:
            text, ok = error_line(name, line.custom_id, "invalid_response", f"Status {status}, and no JSON."), False
        file = self._output if ok else self._errors
        file.write(text + b"\n")
        file.flush()
        if ok:
            summary.completed += 1
            usage = told.get("usage") or {}
            summary.prompt_tokens += int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)
            summary.completion_tokens += int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
        else:
            summary.failed += 1
        self._told()

    def _give_up(self, failure: Exception) -> None:
        with self._turn:
            self._hopeless = self._hopeless or failure
            self._over = True
            self._turn.notify_all()


class _Connection:
    """A thread's connection, kept alive, made anew where it failed."""

    def __init__(self, asking: Asking) -> None:
        parts = urlsplit(asking.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._model = asking.model
        self._headers = {"content-type": "application/json", "user-agent": "forebay-batch"}
        if asking.key is not None:
            self._headers["authorization"] = f"Bearer {asking.key}"

    def ask(self, line: Line) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request's status, headers and body. Raises OSError or HTTPException."""
        body = with_model(line.body, self._model) if self._model is not None else bytes(line.body)
        self._connection.request("POST", self._prefix + line.url, body, self._headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def close(self) -> None:
        self._connection.close()


def _custom_id_of(text: bytes, path: Path) -> str:
    try:
        return str(json.loads(text)["custom_id"])
    except (ValueError, KeyError, TypeError):
        raise Hopeless(f"{path}: has lines that no batch wrote; name another output") from None


def _why(failure: Exception) -> str:
    return (failure.strerror if isinstance(failure, OSError) else None) or str(failure)


def _object(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _seconds(text: str | None) -> float | None:
    try:
        return max(float(text), 0.0) if text is not None else None
    except ValueError:
        return None
