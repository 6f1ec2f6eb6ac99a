"""Sides → values for the chart, `deploy/helm/forebay`. Pure.

What the chart takes is what its schema says; what it says itself is left out, or said in the chart's own words.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

from forebay.deploy.sides import CannotRender, Engine, Sides, Table
from forebay.generate.helm_schema import schema

SECRET_KEYS = {
    "api_keys": "api-keys",
    "admin_keys": "admin-keys",
    "upstream_api_key": "upstream-api-key",
    "secret_key": "secret-key",
    "database_url": "database-url",
    "redis_url": "redis-url",
}
DEFAULT_SECRET = "forebay-keys"  # noqa: S105 (its name)
SHORTEST_START_S = 60
CHARTS_OWN = "the chart says it"


@dataclass(frozen=True)
class Chart:
    """`keys` are those that the Secret must have; `left_out` says of each setting why it is nowhere."""

    values: Table
    keys: tuple[str, ...]
    left_out: Mapping[str, str]


def chart(found: Sides, secret: str = DEFAULT_SECRET, gpus: int = 1) -> Chart:
    """The values, and what they leave open. `gpus` are an engine's, where nobody says. Raises `CannotRender`."""
    _refuse_versions(found.engines)
    gateway, engine = _taken()
    values = {
        "auth": {"existingSecret": secret, **_said(found.gateway, {"allow_anonymous": "allowAnonymous"})},
        "gateway": _table(drain=_drain(found.gateway)),
        "modelDefaults": _table(
            settings=_known(found.common, engine), drain=_drain(found.common), startupSeconds=_startup(found.common)
        ),
        "models": [_model(one, gpus) for one in found.engines],
        "database": _table(enabled="database_url" in found.secrets),
        "redis": _table(enabled="redis_url" in found.secrets, **_said(found.gateway, {"cache_shared": "sharedCache"})),
        "settings": _known(found.gateway, gateway),
    }
    return Chart(_table(**values), _secret_keys(found), _left_out(found, gateway | engine))


@cache
def _taken() -> tuple[frozenset[str], frozenset[str]]:
    """The settings that the chart takes, of gateways and of engines."""
    takes = schema()
    gateway, engine = takes["properties"]["settings"], takes["$defs"]["EngineSettings"]
    return frozenset(gateway["properties"]), frozenset(engine["properties"])


# What the chart has other words for.
_TRANSLATED = frozenset(
    {"allow_anonymous", "cache_shared", "drain_delay_s", "drain_timeout_s", "engine_start_timeout_s"}
)


def _refuse_versions(engines: tuple[Engine, ...]) -> None:
    """Raises `CannotRender` where two are versions of one model."""
    for number, one in enumerate(engines):
        if one.group != "default":
            raise CannotRender(
                f"models[{number}].model_group: the chart has a version beside another as its canary; leave this model "
                "out and start it with deploy/scripts/canary.sh"
            )


def _model(one: Engine, gpus: int) -> Table:
    return _table(
        name=one.name,
        model=one.model,
        servedName=one.served,
        replicas=one.replicas,
        nodes=one.nodes if one.nodes > 1 else None,
        gpus=one.gpus_or(gpus),
        settings=one.settings,
        args=list(one.args),
        env=[{"name": name, "value": value} for name, value in one.env.items()],
        **({} if one.gpus_or(gpus) else {"image": {"repository": "forebay-engine-cpu"}}),
    )


def _drain(told: Table) -> Table:
    words = {"drain_delay_s": "delaySeconds", "drain_timeout_s": "timeoutSeconds"}
    return {word: ceil(told[name]) for name, word in words.items() if name in told}


def _startup(told: Table) -> int | None:
    seconds = told.get("engine_start_timeout_s")
    return None if seconds is None else max(ceil(seconds), SHORTEST_START_S)


def _said(told: Table, words: Mapping[str, str]) -> Table:
    return {word: told[name] for name, word in words.items() if name in told}


def _known(told: Table, names: Set[str]) -> Table:
    return {name: value for name, value in told.items() if name in names}


def _table(**entries: Any) -> Table:
    """Without what says nothing: the chart's own values hold there."""
    return {name: value for name, value in entries.items() if value or (value == 0 and value is not False)}


def _secret_keys(found: Sides) -> tuple[str, ...]:
    """Engines always ask gateways for a key."""
    named = [SECRET_KEYS[name] for name in found.secrets if name in SECRET_KEYS]
    return tuple(dict.fromkeys([*named, SECRET_KEYS["upstream_api_key"]]))


def _left_out(found: Sides, known: Set[str]) -> dict[str, str]:
    told = {*found.gateway, *found.common} - known - _TRANSLATED
    secrets = [name for name in found.secrets if name not in SECRET_KEYS]
    unnamed = dict.fromkeys(secrets, "the chart's Secret has no place for it")
    return {**dict.fromkeys(sorted(told), CHARTS_OWN), **unnamed, **found.left_out}
