"""`forebay keys`: who may call, and how much. Works on the database itself, so no gateway need run."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Annotated, Any

import jwt
import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from forebay.cli.db import Config
from forebay.cli.options import EXIT_USAGE, fail
from forebay.cli.rows import print_table
from forebay.config.settings import Settings
from forebay.config.sources import SettingsError, load_settings
from forebay.policy.grants import Key, NewKey, NotValid, not_valid
from forebay.store.database import DatabaseError, open_database, why
from forebay.store.keys import PAGE, Keys, RevokedKey, UnknownKey, entries

keys = typer.Typer(help="API keys: who may call, and how much.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(help="The key's id.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="Whom the key belongs to; made where it is not known.")]
MAX_TOKEN_S = 86_400
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@keys.command()
def create(
    tenant: TenantOption,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    scope: Annotated[list[str] | None, typer.Option(help="inference (the default), metrics or admin; repeat.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeat. All by default.")] = None,
    requests_per_minute: Annotated[str | None, typer.Option("--rpm", help="Requests in a minute.")] = None,
    tokens_per_minute: Annotated[str | None, typer.Option("--tpm", help="Tokens in a minute.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Requests under way at once.")] = None,
    tokens_per_day: Annotated[str | None, typer.Option(help="Tokens in a day (UTC).")] = None,
    tokens_per_month: Annotated[str | None, typer.Option(help="Tokens in a month (UTC).")] = None,
    priority: Annotated[str | None, typer.Option(help="Higher goes first; 0 by default.")] = None,
    weight: Annotated[str | None, typer.Option(help="Its tenant's share where tenants compete; 1.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: 30d, 12h, 2030-01-31, or 2030-01-31T12:00Z.")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Make a key and show it, this once:

    forebay keys create --tenant acme --name ci --rpm 600 --tpm 100000 --expires 90d
    """
    given: dict[str, Any] = {
        "tenant": tenant,
        "name": name,
        "scopes": scope,
        "models": model,
        "requests_per_minute": _number(requests_per_minute),
        "tokens_per_minute": _number(tokens_per_minute),
        "concurrency": _number(concurrency),
        "tokens_per_day": _number(tokens_per_day),
        "tokens_per_month": _number(tokens_per_month),
        "priority": _number(priority),
        "weight": _number(weight),
        "expires_at": _moment(expires),
    }
    with _store(config) as store:
        new = NewKey.model_validate({name: value for name, value in given.items() if value is not None})
        key, text = store.create(new, time())
    _show_made(key, text, as_json)
    if not _settings(config).uses_database:
        typer.echo("forebay: gateways look it up where keys_database or database_url is set; here neither is", err=True)


@keys.command(name="list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    after: Annotated[str, typer.Option(help="The last id of the page before.")] = "",
    limit: Annotated[int, typer.Option(help="Keys on a page.", min=1, max=100_000)] = PAGE,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List keys in the order of their ids, revoked ones too:

    forebay keys list --tenant acme
    """
    with _store(config) as store:
        _show(store.page(tenant, after, limit), as_json)


@keys.command()
def show(key_id: Id, as_json: AsJson = False, config: Config = None) -> None:
    """Show all that is known of a key; its secret is not."""
    with _store(config) as store:
        key = store.show(key_id)
    fields = key.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        print_table([[name, _cell(value)] for name, value in fields.items()], "field", "value")


@keys.command()
def rotate(
    key_id: Id,
    grace_s: Annotated[float, typer.Option(help="Time that the secret before goes on working, seconds.", min=0)] = 0.0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Give a key another secret and show it, this once."""
    with _store(config) as store:
        key, text = store.rotate(key_id, time(), grace_s)
    _show_made(key, text, as_json)


@keys.command()
def revoke(key_id: Id, config: Config = None) -> None:
    """End a key for good, in every gateway within 2 s."""
    with _store(config) as store:
        store.revoke(key_id, time())
    typer.echo(f"forebay: {key_id} is revoked")


@keys.command(name="import")
def import_keys(
    file: Annotated[Path, typer.Argument(help="A JSON object a line; - for standard input.")], config: Config = None
) -> None:
    """Take keys in that were made elsewhere, all or none. Each line has `tenant`, `key` (or the `sha256` of it, in hex)
    and any other field of a key:

    forebay keys import keys.jsonl
    """
    with _store(config) as store, contextlib.ExitStack() as opened:
        lines = sys.stdin if str(file) == "-" else opened.enter_context(file.open(encoding="utf-8"))
        count = store.take_in(entries(lines), time())
    typer.echo(f"forebay: {count} {'key' if count == 1 else 'keys'} imported")


@contextlib.contextmanager
def _store(config: Path | None) -> Iterator[Keys]:
    """The keys in the database; ends the process with one line where something is wrong."""
    try:
        database = open_database(_settings(config))
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
        fail(f"database: {wrong}" if isinstance(wrong, DatabaseError) else str(wrong))
    except SQLAlchemyError as failure:
        fail(f"database: {why(failure)}")


@keys.command()
def token(
    tenant: TenantOption,
    subject: Annotated[str | None, typer.Option(help="Who it is for; named in logs. The tenant by default.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="inference (the default), metrics or admin; repeat.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model it may use; repeat. All by default.")] = None,
    requests_per_minute: Annotated[str | None, typer.Option("--rpm", help="Requests in a minute.")] = None,
    tokens_per_minute: Annotated[str | None, typer.Option("--tpm", help="Tokens in a minute.")] = None,
    lasts: Annotated[str, typer.Option(help="How long it is valid: 15m, 12h, at most 1d.")] = "15m",
    config: Config = None,
) -> None:
    """Print a token (JWT), signed with SECRET_KEY; no database is needed:

    forebay keys token --tenant acme --lasts 15m
    """
    settings = _settings(config)
    if settings.secret_key is None:
        fail("secret_key: set SECRET_KEY to the secret that the gateways have", EXIT_USAGE)
    limits = {"requests_per_minute": _number(requests_per_minute), "tokens_per_minute": _number(tokens_per_minute)}
    fields = {"tenant": tenant, "scopes": scope, "models": model, **limits}
    try:
        new = NewKey.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as wrong:
        fail(str(not_valid(wrong)), EXIT_USAGE)
    seconds = _duration(lasts)
    if seconds is None or not 0 < seconds <= MAX_TOKEN_S:
        fail("lasts: a number and m, h or d, at most 1d in all", EXIT_USAGE)
    now = int(time())
    claims = {"sub": subject or tenant, "tenant": tenant, "iat": now, "exp": now + seconds, "scopes": new.scopes}
    claims |= {"limits": new.model_dump(include=set(limits), exclude_none=True)} if any(limits.values()) else {}
    claims |= {"models": new.models} if new.models is not None else {}
    claims |= {"aud": settings.jwt_audience} if settings.jwt_audience is not None else {}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer is not None else {}
    typer.echo(jwt.encode(claims, settings.secret_key.get_secret_value(), algorithm="HS256"))


def _settings(config: Path | None) -> Settings:
    try:
        return load_settings({}, file=config)[0]
    except SettingsError as wrong:
        fail(str(wrong), EXIT_USAGE)


def _number(text: str | None) -> Any:
    """A number as typed; what is none is left for the field's own check to refuse, by its name."""
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        return text


def _duration(text: str) -> int | None:
    """`15m`, `12h`, `30d` in seconds; None for anything else."""
    number, unit = text[:-1], text[-1:]
    return int(number) * _UNITS[unit] if unit in _UNITS and number.isascii() and number.isdigit() else None


def _moment(text: str | None) -> Any:
    """When `30d` is over, or a day (UTC) begins; all else is left for the field's own check."""
    if text is None:
        return None
    if (seconds := _duration(text)) is not None and len(text) < 10:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    return f"{text}T00:00Z" if _DAY.fullmatch(text) else text


def _show_made(key: Key, text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**key.model_dump(mode="json"), "key": text}))
        return
    typer.echo(f"forebay: key {key.id} of {key.tenant}; its secret cannot be shown again:", err=True)
    typer.echo(text)


def _show(found: list[Key], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([key.model_dump(mode="json") for key in found]))
        return
    rows = [
        [key.id, key.tenant, key.name, " ".join(key.scopes), _cell(key.models), _state(key), _cell(key.expires_at)]
        for key in found
    ]
    print_table(rows, "id", "tenant", "name", "scopes", "models", "state", "expires")


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= datetime.now(UTC) else "valid"


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else "" if value is None else str(value)
