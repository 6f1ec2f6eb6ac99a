"""`forebay tenants`: what all keys of each may use together. Works on the database itself, as `forebay keys` does."""

import json
from typing import Annotated

import typer

from forebay.cli.grants import Concurrency, PerDay, PerMonth, Rpm, Tpm, fields_given, store
from forebay.cli.options import AsJson, Config
from forebay.cli.rows import cell, print_table
from forebay.policy.grants import Limits, NewKey, Tenant
from forebay.store.keys import PAGE

tenants = typer.Typer(help="Tenants: what all keys of each may use together.", no_args_is_help=True)


@tenants.command(name="list")
def list_tenants(
    after: Annotated[str, typer.Option(help="The last tenant of the page before.")] = "",
    limit: Annotated[int, typer.Option(help="Tenants on a page.", min=1, max=100_000)] = PAGE,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List tenants in the order of their names."""
    with store(config) as held:
        found = held.tenants(after, limit)
    _show(found, as_json)


@tenants.command(name="set")
def set_limits(
    tenant: Annotated[str, typer.Argument(help="The tenant; made where it is not known.")],
    requests_per_minute: Rpm = None,
    tokens_per_minute: Tpm = None,
    concurrency: Concurrency = None,
    tokens_per_day: PerDay = None,
    tokens_per_month: PerMonth = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Set a tenant's limits, in every gateway within 2 s; what is not said stays, and `none` lifts a limit:

    forebay tenants set acme --tpm 100000 --tokens-per-month 5000000
    """
    given = fields_given(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
    )
    with store(config) as held:
        name = NewKey.model_validate({"tenant": tenant}).tenant  # checked as a key's is
        changed = held.set_tenant(name, Limits.model_validate(given))
    _show([changed], as_json)


def _show(found: list[Tenant], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([tenant.model_dump(mode="json") for tenant in found]))
        return
    limits = tuple(Limits.model_fields)
    print_table([[one.id, *(cell(getattr(one, name)) for name in limits)] for one in found], "tenant", *limits)
