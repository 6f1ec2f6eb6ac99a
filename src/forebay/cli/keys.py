"""`forebay keys`: who may call, and how much. Works on the database itself, so no gateway need run."""

import contextlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Annotated, Any

import typer

from forebay.cli.grants import (
    Concurrency,
    Expires,
    Models,
    PerDay,
    PerMonth,
    Priority,
    Rpm,
    Scopes,
    TenantOption,
    Tpm,
    Weight,
    fields_given,
    moment,
    store,
)
from forebay.cli.options import AsJson, Config
from forebay.cli.rows import print_table
from forebay.cli.settings_options import named_settings
from forebay.cli.token import token
from forebay.policy.grants import Grant, Key, NewKey
from forebay.store.keys import PAGE, entries

keys = typer.Typer(help="API keys: who may call, and how much.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(help="The key's id.")]


@keys.command()
def create(
    tenant: TenantOption,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    scope: Scopes = None,
    model: Models = None,
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    concurrency: Concurrency = None,
    tokens_per_day: PerDay = None,
    tokens_per_month: PerMonth = None,
    priority: Priority = None,
    weight: Weight = None,
    expires: Expires = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Make a key and show it, this once:

    forebay keys create --tenant acme --name ci --rpm 600 --tpm 100000 --expires 90d
    """
    given = fields_given(
        tenant=tenant,
        name=name,
        scopes=scope,
        models=model,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
        priority=priority,
        weight=weight,
        expires_at=moment(expires),
    )
    with store(config) as held:
        key, text = held.create(NewKey.model_validate(given), time())
    _show_made(key, text, as_json)
    if not named_settings(config).uses_database:
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
    with store(config) as held:
        _show(held.page(tenant, after, limit), as_json)


@keys.command()
def show(key_id: Id, as_json: AsJson = False, config: Config = None) -> None:
    """Show all that is known of a key; its secret is not."""
    with store(config) as held:
        key = held.show(key_id)
    _show_one(key, as_json)


@keys.command()
def change(
    key_id: Id,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    scope: Scopes = None,
    model: Models = None,
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    concurrency: Concurrency = None,
    tokens_per_day: PerDay = None,
    tokens_per_month: PerMonth = None,
    priority: Priority = None,
    weight: Weight = None,
    expires: Expires = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Change what a key may do, in every gateway within 2 s; what is not said stays, and `none` lifts a limit:

    forebay keys change 8c1f2a90d3b4e5f6 --rpm 1200 --tokens-per-day none
    """
    given = fields_given(
        name=name,
        scopes=scope,
        models=model,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
        priority=priority,
        weight=weight,
        expires_at=moment(expires),
    )
    with store(config) as held:
        key = held.change(key_id, Grant.model_validate(given))
    _show_one(key, as_json)


@keys.command()
def rotate(
    key_id: Id,
    grace_s: Annotated[float, typer.Option(help="Time that the secret before goes on working, seconds.", min=0)] = 0.0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Give a key another secret and show it, this once."""
    with store(config) as held:
        key, text = held.rotate(key_id, time(), grace_s)
    _show_made(key, text, as_json)


@keys.command()
def revoke(key_id: Id, config: Config = None) -> None:
    """End a key for good, in every gateway within 2 s."""
    with store(config) as held:
        held.revoke(key_id, time())
    typer.echo(f"forebay: {key_id} is revoked")


@keys.command(name="import")
def import_keys(
    file: Annotated[Path, typer.Argument(help="A JSON object a line; - for standard input.")], config: Config = None
) -> None:
    """Take keys in that were made elsewhere, all or none. Each line has `tenant`, `key` (or the `sha256` of it, in hex)
    and any other field of a key:

    forebay keys import keys.jsonl
    """
    with store(config) as held, contextlib.ExitStack() as opened:
        lines = sys.stdin if str(file) == "-" else opened.enter_context(file.open(encoding="utf-8"))
        count = held.take_in(entries(lines), time())
    typer.echo(f"forebay: {count} {'key' if count == 1 else 'keys'} imported")


keys.command()(token)


def _show_made(key: Key, text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**key.model_dump(mode="json"), "key": text}))
        return
    typer.echo(f"forebay: key {key.id} of {key.tenant}; its secret cannot be shown again:", err=True)
    typer.echo(text)


def _show_one(key: Key, as_json: bool) -> None:
    fields = key.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        print_table([[name, _cell(value)] for name, value in fields.items()], "field", "value")


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
