"""Bringing a database's tables to what this code needs: `forebay db upgrade`. Alembic does it, by `migrations/`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import SQLAlchemyError

from forebay.store.database import Database, DatabaseError, make_file, why

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x666F7265
# Two upgrades at once wait for one another: a lock of the whole database, until the transaction ends.
_ONE_AT_A_TIME = {
    "sqlite": "PRAGMA user_version = 1",
    "postgresql": f"SELECT pg_advisory_xact_lock({_LOCK})",
}


def upgrade(database: Database) -> None:
    """Apply what is missing, in one transaction. Raises `DatabaseError`."""
    if database.file is not None:
        make_file(database.file)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with database.engine.begin() as connection:
            connection.exec_driver_sql(_ONE_AT_A_TIME[database.engine.dialect.name])
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SQLAlchemyError as failure:
        raise DatabaseError(f"{database.where}: {why(failure)}") from None
