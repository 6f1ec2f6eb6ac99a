"""The database itself: its tables, its schema's age, its ways of being away. On SQLite and on PostgreSQL."""

import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import text

from forebay.config.settings import Settings
from forebay.store.database import Database, DatabaseError, database_at, open_database
from forebay.store.tables import SCHEMA, metadata
from forebay.store.upgrade import MIGRATIONS, upgrade
from tests.store.databases import made, settings_for


def test_the_migrations_make_the_tables_that_the_code_has(database_url: str) -> None:
    database = made(database_url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_the_code_knows_its_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [SCHEMA]


def test_upgrading_again_changes_nothing(database_url: str) -> None:
    database = made(database_url)
    with database.change() as (_, number):
        assert number == 1
    upgrade(database)
    database.check()
    with database.change() as (_, number):
        assert number == 2
    database.close()


def test_a_new_sqlite_file_is_made_by_itself_and_is_its_owners_alone(tmp_path: Path) -> None:
    database = open_database(settings_for(f"sqlite:///{tmp_path}/deep/down/forebay.db"))
    assert database.file is not None
    assert stat.S_IMODE(database.file.stat().st_mode) == 0o600
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


def test_without_a_url_the_file_is_below_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_HOME", str(tmp_path))
    database = open_database(Settings(keys_database=True))
    assert database.file == tmp_path / "forebay.db"
    database.close()


def test_an_empty_postgresql_is_not_made_ready_by_itself_and_the_fix_is_said(postgres: str) -> None:
    with pytest.raises(DatabaseError, match="run `forebay db upgrade`"):
        open_database(settings_for(postgres))


@pytest.mark.parametrize(("version", "told"), [("0000", "older Forebay"), ("9999", "newer Forebay")])
def test_a_schema_of_another_age_is_refused(version: str, told: str, database_url: str) -> None:
    database = made(database_url)
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
    with pytest.raises(DatabaseError, match=told):
        open_database(settings_for(database_url))
    database.close()


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseError) as refused:
        open_database(settings_for(f"sqlite:///{tmp_path}/x.db"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:", "hunter2", "http://h"])
def test_another_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(DatabaseError) as refused:
        database_at(Settings(database_url=SecretStr(url)))
    assert "hunter2" not in str(refused.value)


def test_a_database_that_nobody_answers_for_is_said_without_its_password() -> None:
    with pytest.raises(DatabaseError) as refused:
        open_database(settings_for("postgresql://u:hunter2@127.0.0.1:1/d", database_timeout_s=1.0))
    assert "127.0.0.1" in str(refused.value)
    assert "hunter2" not in str(refused.value) + repr(database_at(settings_for("postgresql://u:hunter2@h/d")))


def test_a_change_that_fails_leaves_nothing_and_takes_no_number(database_url: str) -> None:
    database = made(database_url)
    with pytest.raises(RuntimeError):
        with database.change():
            raise RuntimeError
    with database.change() as (_, number):
        assert number == 1
    database.close()


def numbers_seen(database: Database) -> int:
    with database.engine.connect() as connection:
        return int(connection.execute(text("SELECT number FROM changes")).scalar_one())


def test_a_reader_does_not_wait_for_a_writer(database_url: str) -> None:
    database = made(database_url)
    with database.change():
        assert numbers_seen(database) == 0
    assert numbers_seen(database) == 1
    database.close()


def test_two_sqlite_writers_queue(tmp_path: Path) -> None:
    database = made(f"sqlite:///{tmp_path}/forebay.db")
    other = sqlite3.connect(tmp_path / "forebay.db", timeout=0.0)
    with database.change():
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE changes SET number = 7")
    other.close()
    database.close()


def test_a_connection_in_use_when_the_database_is_closed_is_closed_when_given_back(database_url: str) -> None:
    database = made(database_url)
    with database.engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        connection.execute(text("SELECT 1"))
        database.close()
    assert driver is not None
    with pytest.raises(Exception, match="closed"):
        driver.cursor().execute("SELECT 1")
