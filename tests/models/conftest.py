"""A hub on loopback, and `forebay models` as a process with a cache of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models.fake_hub import FakeHub, tiny

MAIN = "from forebay.cli.main import main; main()"


class Machine:
    """A machine with a hub: what `forebay models` does there."""

    def __init__(self, home: Path, hub: FakeHub) -> None:
        self.hub = hub
        self.home = home
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
        self.env = {**kept, "HOME": str(home), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "huggingface" / "hub"

    def run(self, *words: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command; `before` is Python that its process runs first."""
        return subprocess.run(
            [sys.executable, "-c", before + MAIN, "models", *words],
            env={**self.env, **env},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *words: str, before: str = "", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", before + MAIN, "models", *words],
            env={**self.env, **env},
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *words: str, **env: str) -> str:
        done = self.run(*words, **env)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def asked(self, *words: str, **env: str) -> Any:
        """What a command answers a program."""
        return json.loads(self.ok(*words, "--json", **env))

    def refused(self, *words: str, status: int = 1, **env: str) -> str:
        """The one line that a command fails with."""
        done = self.run(*words, **env)
        assert done.returncode == status, done.stderr + done.stdout
        lines = [line for line in done.stderr.splitlines() if line.startswith("forebay: ")]
        assert "Traceback" not in done.stderr
        return lines[-1].removeprefix("forebay: ")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub({"acme/tiny": tiny()})
    yield hub
    hub.close()


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub) -> Machine:
    return Machine(tmp_path, hub)
