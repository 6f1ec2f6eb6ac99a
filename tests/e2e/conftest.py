"""One real `forebay serve` with the real vLLM and the packaged model, for the whole session."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import command_of, descendants

KEY = "sk-e2e-canary"
ADMIN_KEY = "sk-e2e-admin-canary"
MODEL = "smollm2-135m-instruct"
START_S = 240


@dataclass
class Service:
    """A running `forebay serve`."""

    url: str
    process: subprocess.Popen[str]
    log_file: Path

    def get(self, path: str, *, key: bool = True) -> tuple[int, Any]:
        """GET a path; returns status and body, decoded where it is JSON."""
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {KEY}"} if key else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.read())

    def figure(self, name: str, **labels: str) -> float:
        """The sum of a metric over its labels, or over those series that have the labels given."""
        lines = self.get("/metrics")[1].decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        ours = (line for line in lines if line.startswith((name + "{", name + " ")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in ours if all(one in line for one in wanted))

    def wait_until_ready(self, within_s: float = START_S) -> None:
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            assert self.process.poll() is None, f"forebay ended: {self.log_tail()}"
            with contextlib.suppress(OSError):
                if self.get("/health/ready")[0] == 200:
                    return
            time.sleep(0.2)
        raise AssertionError(f"not ready within {within_s:g} s: {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log_file.read_text()[-3000:] if self.log_file.exists() else "no log"


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


@contextlib.contextmanager
def serve(log_file: Path, *flags: str) -> Iterator[Service]:
    """`forebay serve default` with the options given, until it is ready; at the end SIGTERM must end all of it."""
    env = {name: value for name, value in os.environ.items() if name not in ("FOREBAY_CONFIG", "LOG_FILE")}
    env |= {"API_KEYS": KEY, "FOREBAY_ADMIN_KEYS": ADMIN_KEY}
    env |= {"MODEL_ALIASES": "gpt-3.5-turbo=*,text-davinci-003=*"}
    env["DATABASE_URL"] = f"sqlite:///{log_file.with_suffix('.sqlite3')}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("forebay")),
            *("serve", "default", "--port", "0", "--log-file", str(log_file), "--drain-timeout-s", "20", *flags),
        ],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = next((line for line in process.stdout if "listening on" in line), "")
        assert address, f"forebay serve did not start, status {process.wait(30)}"
        service = Service(address.split()[-1], process, log_file)
        service.wait_until_ready()
        yield service
        family = descendants(process.pid)
        assert len(family) >= 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, service.log_tail()
        assert [pid for pid in family if "vllm" in command_of(pid).lower()] == []
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log_file = tmp_path_factory.mktemp("e2e") / "forebay.log"
    flags = ["--max-model-len", "1024", "--engine-backoff-max-s", "1", "--", "--max-logprobs", "20"]
    with serve(log_file, *flags) as running:
        yield running
