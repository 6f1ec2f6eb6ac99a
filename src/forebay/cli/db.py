"""`forebay db`: the database's tables."""

from contextlib import closing

import typer

from forebay.cli.options import EXIT_USAGE, Config, fail
from forebay.cli.settings_options import named_settings
from forebay.store.database import Database, DatabaseError, database_at
from forebay.store.tables import SCHEMA

db = typer.Typer(help="The database that keys are kept in.", no_args_is_help=True)


@db.command()
def upgrade(config: Config = None) -> None:
    """Bring the database's tables to what this version needs; a new SQLite file is made:

    DATABASE_URL=postgresql://forebay@localhost/forebay forebay db upgrade
    """
    from forebay.store import upgrade as upgrading  # Alembic takes a fifth of a second to import

    with closing(named_database(config)) as database:
        try:
            upgrading.upgrade(database)
        except DatabaseError as wrong:
            fail(f"database: {wrong}")
        typer.echo(f"forebay: {database.where} is at {SCHEMA}")


def named_database(config: Config) -> Database:
    """The database that the settings name; ends the process where they are wrong."""
    try:
        return database_at(named_settings(config))
    except DatabaseError as wrong:
        fail(str(wrong), EXIT_USAGE)
