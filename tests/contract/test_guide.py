"""What docs/tenants.md tells to type works, and prints what the page says.

Above a block of commands, `<!-- tried -->` says that it is run, with status 0 or the one told (`<!-- tried, status 2
-->`), and compared with the block of text that follows, where there is one: `…` stands for anything there, and one
space for any white space. `<!-- serves -->` says that it goes on in a terminal of its own, in the place of the one
before, until the next. Blocks that are tried share one shell's variables and functions, and terminals are opened in it.
The ports of the page stand for free ones.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.servers import ValkeyServer

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "tenants.md"
ENGINE, GATEWAYS, REDIS = 8001, (8000, 8010), 6379  # as the page has them
BLOCK = re.compile(
    r"^<!-- (tried|serves)(?:, status (\d))? -->\n```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """Commands of the page, and what they print; `expected` is empty where it does not say."""

    line: int
    kind: str
    status: int
    commands: str
    expected: str


class Shell:
    """A shell in a directory of its own: each command finds the variables and functions that those before have left."""

    def __init__(self, home: Path, ports: dict[int, int]) -> None:
        self.home = home
        self.ports = ports
        self.state = home / "state.sh"
        self.state.touch()
        (home / "bin").mkdir()
        program(home / "bin" / "forebay", "-c", "from forebay.cli.main import main; main()")
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG", "HOME") if name in os.environ}
        port = str(ports[GATEWAYS[0]])
        self.environment = {**kept, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "FOREBAY_PORT": port}
        self.serving: subprocess.Popen[bytes] | None = None

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        script = f"trap '{{ declare -px; declare -f; }} > {self.state}' EXIT\n{self.here(commands)}"
        return subprocess.run(
            ["bash", "-c", f". {self.state}\n{script}"],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    def serve(self, commands: str) -> None:
        """Open a terminal in the place of the one before, and wait until all that serves there is ready."""
        self.close()
        with (self.home / "served.log").open("ab") as log:
            self.serving = subprocess.Popen(
                ["bash", "-c", f". {self.state}\n{self.here(commands)}"],
                env=self.environment,
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for port in GATEWAYS if "8010" in commands else GATEWAYS[:1]:
            self.until_ready(f"http://127.0.0.1:{self.ports[port]}/health/ready")

    def until_ready(self, url: str) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urlopen(url, timeout=1).close()
            except (URLError, OSError):
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.home / "served.log").read_text())

    def here(self, commands: str) -> str:
        """The commands with this machine's ports."""
        return re.sub(r"\b(8000|8001|8010|6379)\b", lambda found: str(self.ports[int(found[0])]), commands)

    def close(self) -> None:
        if self.serving is None:
            return
        group = self.serving.pid
        os.killpg(group, signal.SIGTERM)
        self.serving.wait(30)
        self.serving = None
        for port in GATEWAYS:
            self.until_free(port)

    def until_free(self, port: int) -> None:
        """The terminal's shell may be gone before what it started."""
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                socket.create_connection(("127.0.0.1", self.ports[port])).close()
                time.sleep(0.02)


def program(path: Path, *words: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
    path.chmod(0o755)


def blocks(page: str) -> list[Block]:
    return [
        Block(page.count("\n", 0, found.start()) + 1, found[1], int(found[2] or 0), found[3], found[4] or "")
        for found in BLOCK.finditer(page)
    ]


def is_as_told(expected: str, printed: str) -> bool:
    """Whether a text is what the page says it is: it has its pieces in their order, and nothing before or behind."""
    first, *pieces = (one.strip() for one in " ".join(expected.split()).split("…"))
    text = " ".join(printed.split())
    if not pieces:
        return text == first
    if not text.startswith(first):
        return False
    at = len(first)
    for piece in pieces[:-1]:
        if (found := text.find(piece, at)) < 0:
            return False
        at = found + len(piece)
    return text.endswith(pieces[-1]) and len(text) - len(pieces[-1]) >= at


def free_ports(*wanted: int) -> dict[int, int]:
    socks = {port: socket.create_server(("127.0.0.1", 0)) for port in wanted}
    found = {port: sock.getsockname()[1] for port, sock in socks.items()}
    for sock in socks.values():
        sock.close()
    return found


@pytest.fixture
def shell(tmp_path: Path, own_valkey: ValkeyServer) -> Iterator[Shell]:
    ports = {**free_ports(ENGINE, *GATEWAYS), REDIS: own_valkey.port}
    engine = subprocess.Popen(
        [sys.executable, str(ROOT / "bench" / "mock_engine.py"), str(ports[ENGINE])],
        env={**os.environ, "N": "50", "GAP_MS": "30"},
    )
    shell = Shell(tmp_path, ports)
    try:
        shell.until_ready(f"http://127.0.0.1:{ports[ENGINE]}/health")
        yield shell
    finally:
        shell.close()
        engine.kill()
        engine.wait()


def test_the_guide_to_tenants_does_what_it_says(shell: Shell) -> None:
    found = blocks(GUIDE.read_text())
    assert len(found) > 15
    wrong = []
    for block in found:
        if block.kind == "serves":
            shell.serve(block.commands)
            continue
        done = shell.run(block.commands)
        as_told = not block.expected or is_as_told(block.expected, done.stdout)
        if done.returncode != block.status or not as_told:
            wrong.append(f"{GUIDE.name}:{block.line}: status {done.returncode}, printed:\n{done.stdout}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("printed", ["a x y", "a x b c", "b x b", "a", ""])
def test_a_text_that_is_not_as_the_page_says_is_noticed(printed: str) -> None:
    assert is_as_told("a … b\n", "a  x y\nb")
    assert not is_as_told("a … b\n", printed)
