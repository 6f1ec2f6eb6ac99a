"""What commands for keys, tenants and tokens share: options that say what is granted, and the keys in the database."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from forebay.cli.options import EXIT_USAGE, fail
from forebay.cli.settings_options import named_settings
from forebay.policy.grants import Limits, NotValid, not_valid
from forebay.store.database import DatabaseError, open_database, why
from forebay.store.keys import Keys, RevokedKey, UnknownKey


def number(text: str) -> Any:
    """A number as typed; what is none is left for the field's own check to refuse, by its name."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _numeric(flag: str, text: str) -> Any:
    return typer.Option(flag, help=text, parser=number, metavar="NUMBER", show_default=False)


TenantOption = Annotated[str, typer.Option("--tenant", help="Whom the key belongs to; made where it is not known.")]
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="inference (the default), metrics or admin; repeat.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="A model it may use; repeat. All by default.")]
Rpm = Annotated[Any, _numeric("--rpm", "Requests in a minute.")]
Tpm = Annotated[Any, _numeric("--tpm", "Tokens in a minute.")]
Concurrency = Annotated[Any, _numeric("--concurrency", "Requests under way at once.")]
PerDay = Annotated[Any, _numeric("--tokens-per-day", "Tokens in a day (UTC).")]
PerMonth = Annotated[Any, _numeric("--tokens-per-month", "Tokens in a month (UTC).")]
Priority = Annotated[Any, _numeric("--priority", "Higher goes first; 0 by default.")]
Weight = Annotated[Any, _numeric("--weight", "Its tenant's share where tenants compete; 1.")]
Expires = Annotated[
    str | None, typer.Option("--expires", help="When it ends: 30d, 12h, 2030-01-31, or 2030-01-31T12:00Z.")
]
_LIFTED = {*Limits.model_fields, "models", "expires_at"}
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@contextlib.contextmanager
def store(config: Path | None) -> Iterator[Keys]:
    """The keys in the database; ends the process with one line where something is wrong."""
    try:
        database = open_database(named_settings(config))
        try:
            yield Keys(database)
        finally:
            database.close()
    except ValidationError as wrong:
        fail(str(not_valid(wrong)), EXIT_USAGE)
    except NotValid as wrong:
        fail(str(wrong), EXIT_USAGE)
    except UnknownKey as wrong:
        fail(f"there is no key {wrong}")
    except RevokedKey as wrong:
        fail(f"{wrong} has been revoked, which is for good; make another key")
    except (DatabaseError, OSError) as wrong:
        fail(f"database: {wrong}" if isinstance(wrong, DatabaseError) else f"{wrong.filename}: {wrong.strerror}")
    except SQLAlchemyError as failure:
        fail(f"database: {why(failure)}")


def fields_given(**values: Any) -> dict[str, Any]:
    """The fields that were said; `none` lifts what can be."""
    said = {name: value for name, value in values.items() if value is not None}
    return {name: None if name in _LIFTED and value in ("none", ["none"]) else value for name, value in said.items()}


def duration(text: str) -> int | None:
    """`15m`, `12h`, `30d` in seconds; None for anything else."""
    number, unit = text[:-1], text[-1:]
    return int(number) * _UNITS[unit] if unit in _UNITS and number.isascii() and number.isdigit() else None


def moment(text: str | None) -> Any:
    """When `30d` is over, or a day (UTC) begins; all else is left for the field's own check."""
    if text is None:
        return None
    if (seconds := duration(text)) is not None and len(text) < 10:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    return f"{text}T00:00Z" if _DAY.fullmatch(text) else text
