"""The `forebay` command as a process: to its end, serving, or on a terminal; and, much faster, in this process."""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from typer.testing import CliRunner

from forebay.cli.main import app
from tests.gateway.raw_client import fetch

FOREBAY = str(Path(sys.executable).with_name("forebay"))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def environment(home: Path, **env: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    usual = {"HOME": str(home), "FOREBAY_API_KEY": "sk-test", "COLUMNS": "200", "LANG": "C.UTF-8", "TERM": "xterm"}
    return {**kept, **usual, **env}


async def forebay(home: Path, *words: str, stdin: bytes = b"", **env: str) -> Done:
    """Run a command in `home`; the key is `sk-test`."""
    process = await asyncio.create_subprocess_exec(
        *(FOREBAY, *words),
        env=environment(home, **env),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    return Done(process.returncode or 0, out.decode(), err.decode())


def here(home: Path, *words: str, stdin: bytes = b"", **env: str) -> Done:
    """Run a command in `home`, as `forebay` does, in this process: to start one takes a second."""
    given: dict[str, str | None] = {**dict.fromkeys(os.environ), **environment(home, **env)}
    with contextlib.chdir(home):
        done = CliRunner().invoke(app, words, stdin, given, prog_name="forebay")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


async def within(home: Path, *words: str, stdin: bytes = b"", **env: str) -> Done:
    """The same in a thread, beside what the test's event loop serves."""
    return await asyncio.to_thread(lambda: here(home, *words, stdin=stdin, **env))


@asynccontextmanager
async def serving(*command: str, env: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A command that serves, from when it says where on: its process and URL. It is killed at the end.

    A failure has what the command said beside its first line with it.
    """
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                told = (await process.stdout.readline()).decode()
            assert "http://" in told, f"it does not serve: {told!r}"
            yield process, told.split()[-1]
        except BaseException as failure:
            log.seek(0)
            failure.add_note(f"{' '.join(command)} said:\n{log.read()[-5000:].decode(errors='replace')}")
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            async with asyncio.timeout(60):
                await process.stdout.read()  # else the pipe outlives the loop, where it has children
                await process.wait()


@asynccontextmanager
async def gateway_process(
    upstream: str, *flags: str, files: int | None = None, **env: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`forebay gateway` over an engine, once it is ready: its process and URL. The key is `sk-test`.

    `files` is how many it may have open, and what is in `env` may be any of its settings.
    """
    within_limit = ("sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files)) if files is not None else ()
    command = (*within_limit, FOREBAY, "gateway", "--upstream", upstream, "--port", "0", *flags)
    async with serving(*command, env={**os.environ, "API_KEYS": "sk-test", **env}) as (process, url):
        async with asyncio.timeout(60):
            while (await fetch(url, "GET", "/health/ready")).status != 200:
                await asyncio.sleep(0.02)
        yield process, url


class Terminal:
    """A terminal with a command in it. `shown` is all that it has printed."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self._descriptor = descriptor
        self._news = asyncio.Event()
        self.process = process
        self.shown = ""
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    async def until(self, text: str, after: int = 0) -> int:
        """Wait until it shows a text; return where that ends."""
        async with asyncio.timeout(30):
            while (at := self.shown.find(text, after)) < 0:
                await self._news.wait()
                self._news.clear()
        return at + len(text)

    async def press_until(self, key: str, text: str, after: int = 0) -> int:
        """Press a key until it shows a text. Once would do but for Ctrl-C between a prompt and the wait for a key, of
        which CPython's readline tells nobody before the next key."""
        while True:
            self.type(key)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    return await self.until(text, after)

    async def status(self) -> int:
        """Wait for the command's end."""
        return await asyncio.wait_for(self.process.wait(), 30)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            self.shown += os.read(self._descriptor, 65_536).decode(errors="replace")
        except OSError:  # the other side is closed
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._news.set()


def _take(terminal: int) -> None:
    """Make it this process's own, so that what is typed there interrupts it. uvloop's new session would come later."""
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


@asynccontextmanager
async def on_terminal(home: Path, *words: str, **env: str) -> AsyncIterator[Terminal]:
    """A command with a terminal that Ctrl-C can be typed at."""
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(FOREBAY, *words),
        env=environment(home, **env),
        cwd=home,
        stdin=its,
        stdout=its,
        stderr=its,
        preexec_fn=lambda: _take(its),
    )
    os.close(its)
    terminal = Terminal(ours, process)
    try:
        yield terminal
    finally:
        await terminal.close()
