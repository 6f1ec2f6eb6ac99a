"""One file of settings → what its gateways are told, what each engine is told, and what nobody is. Pure.

A setting that both sides have, such as `log_level`, is told to both. A value is JSON's: what TOML and YAML can hold.
Secrets are named and never told. A plan (`forebay plan MODEL --json`) goes before the settings: it was made for the
GPUs of the place that is deployed to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from forebay.config.settings import Settings
from forebay.deploy.names import labels_of
from forebay.generate.fields import is_secret

Table = dict[str, Any]

OF_GATEWAYS = frozenset({"prices", "presets"})  # these are in files only, so no command has them as options
# What an `Engine` says itself; its GPUs are its tensor parallel size, where nothing else is said.
OF_MODELS = frozenset(
    {"model", "models", "model_group", "served_model_name", "replicas", "engine_args", "tensor_parallel_size"}
)
ONE_PROCESS = "is of `forebay serve` alone"


class CannotRender(Exception):
    """These settings are for no such place; the message says which, and what to do."""


@dataclass(frozen=True)
class Engine:
    """A model's engines. `gpus` are those of one pod, 0 is the CPU, None is not said; `settings` are its own alone."""

    name: str
    model: str
    served: str = ""
    group: str = "default"
    replicas: int = 1
    nodes: int = 1
    gpus: int | None = None
    settings: Table = field(default_factory=dict)
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def gpus_or(self, default: int) -> int:
        """How many, with what holds where nobody says."""
        return default if self.gpus is None else self.gpus


@dataclass(frozen=True)
class Sides:
    """`common` is told to all engines; `left_out` says of a setting why nobody is told it."""

    gateway: Table
    engines: tuple[Engine, ...]
    common: Table
    secrets: tuple[str, ...]
    left_out: Mapping[str, str]


def sides(settings: Settings, plans: Sequence[Mapping[str, Any]] = ()) -> Sides:
    """Who is told what. Raises `CannotRender`."""
    told = {
        name: _plain(getattr(settings, name)) for name in Settings.model_fields if name in settings.model_fields_set
    }
    hidden = {name for name, field in Settings.model_fields.items() if is_secret(field)}
    rest = {name: value for name, value in told.items() if name not in hidden and name not in OF_MODELS}
    gateway = {name: value for name, value in rest.items() if is_of("gateway", name)}
    common = {name: value for name, value in rest.items() if is_of("engine", name)}
    nobody = {name: ONE_PROCESS for name in rest if name not in gateway and name not in common}
    engines = _planned(_engines(settings), plans)
    if not engines:
        raise CannotRender("models: there is none to serve; set model or models in the file, or give --plan")
    return Sides(gateway, engines, common, _secrets(settings), {**nobody, **_gateways_alone(settings)})


def _secrets(settings: Settings) -> tuple[str, ...]:
    """Those that are set, and those that are needed where others can reach the ports."""
    needed = (
        {"upstream_api_key"} if settings.asks_for_keys or settings.allow_anonymous else {"upstream_api_key", "api_keys"}
    )
    named = settings.model_fields_set | needed
    return tuple(name for name, field in Settings.model_fields.items() if is_secret(field) and name in named)


def is_of(role: str, name: str) -> bool:
    """Whether a role's process is told a setting."""
    extra: Any = Settings.model_fields[name].json_schema_extra
    if role == "engine":
        return role in extra["roles"] and name not in OF_MODELS
    return role in extra["roles"] or name in OF_GATEWAYS


def _engines(settings: Settings) -> tuple[Engine, ...]:
    """One for each model; of several, each has the settings that are its own; of one, all are common ones."""
    if settings.model is None and not settings.models:
        return ()
    return tuple(
        Engine(
            "",
            one.model or "",
            one.served_model_name or "",
            one.model_group,
            one.replicas,
            gpus=one.tensor_parallel_size,
            settings={name: _plain(getattr(one, name)) for name in entry if is_of("engine", name)},
            args=one.engine_args,
        )
        for one, entry in zip(settings.each_model(), settings.models or ({},), strict=True)
    )


def _gateways_alone(settings: Settings) -> Table:
    """What models have of their own in one process, and what gateways cannot tell apart."""
    alone = {name for entry in settings.models for name in entry if name not in OF_MODELS and not is_of("engine", name)}
    return {f"models[].{name}": "gateways have one for all models" for name in sorted(alone)}


def _planned(engines: tuple[Engine, ...], plans: Sequence[Mapping[str, Any]]) -> tuple[Engine, ...]:
    """The engines, named, as the plans have them; a plan of another model is another engine."""
    entries = {entry["model"]: entry for entry in map(_entry_of, plans)}
    known = {engine.model for engine in engines}
    new = [Engine("", model) for model in entries if model not in known]
    found = [_as_planned(engine, entries.get(engine.model)) for engine in (*engines, *new)]
    names = labels_of([engine.served or engine.model for engine in found])
    return tuple(replace(engine, name=name) for engine, name in zip(found, names, strict=True))


def _as_planned(engine: Engine, entry: Table | None) -> Engine:
    if entry is None:
        return engine
    return replace(
        engine,
        replicas=entry["replicas"],
        nodes=entry.get("nodes", 1),
        gpus=entry["gpus"],
        settings={**engine.settings, **entry["settings"]},
        args=(*engine.args, *entry["args"]),  # vLLM takes the last
        env={one["name"]: one["value"] for one in entry.get("env", ())},
    )


def _entry_of(plan: Mapping[str, Any]) -> Table:
    """What a plan says of the chart's `models`."""
    try:
        if "plan" not in plan:
            raise CannotRender(f"plan: {plan['summary']}; a plan that fits is needed")
        entry: Table = plan["helm_values"]["models"][0]
        return entry
    except (KeyError, TypeError, IndexError):
        raise CannotRender("plan: is no plan; make one with `forebay plan MODEL --gpu GPU --json`") from None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
