"""Command-line options made from the settings' fields, so that none is typed twice."""

import inspect
import os
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from forebay.cli.options import EXIT_USAGE, Config, fail
from forebay.config.settings import Settings
from forebay.config.sources import Loader, SettingsError, environment_names, load_settings, parse_text
from forebay.systemd import NotOurSocket, passed_address


def with_settings_options(
    role: str, defaults: Callable[[dict[str, Any]], dict[str, Any]] = lambda own: {}
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting of its role, and call it with the loaded `settings`.

    The command's own parameters stay; `settings` must be one of them, and `loader`, which loads them again, may be.
    `defaults` makes, of the command's own values, settings that hold where nothing else is set. Wrong settings end the
    process with exit status 2 and a line each.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        takes = inspect.signature(command).parameters
        own = [parameter for name, parameter in takes.items() if name not in ("settings", "loader")]
        fields = {name: field for name, field in Settings.model_fields.items() if role in roles_of(field)}

        def run(**values: Any) -> None:
            file = values.pop("config")
            flags = {name: _from_flag(fields[name], values.pop(name)) for name in fields}
            if role in ("gateway", "serve"):
                flags |= _passed()
            loader = Loader.of(flags, file, defaults(values))
            try:
                settings = loader.load()
            except SettingsError as wrong:
                fail(str(wrong), EXIT_USAGE)
            command(settings=settings, **values, **({"loader": loader} if "loader" in takes else {}))

        run.__doc__ = command.__doc__
        run.__name__ = command.__name__
        parameters = [*own, _parameter("config", Config), *(_option(n, f) for n, f in fields.items())]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _passed() -> dict[str, Any]:
    """Where the socket listens that was passed to us: it goes before what is set, and is judged as that is."""
    try:
        passed = passed_address(os.environ)
    except NotOurSocket as wrong:
        fail(str(wrong), EXIT_USAGE)
    return {"host": passed[0], "port": passed[1]} if passed is not None else {}


def named_settings(config: Config) -> Settings:
    """The settings that a file and the environment make; ends the process where they are wrong."""
    try:
        return load_settings({}, file=config)[0]
    except SettingsError as wrong:
        fail(str(wrong), EXIT_USAGE)


def roles_of(field: FieldInfo) -> list[str]:
    """The commands that take a field as an option."""
    extra: Any = field.json_schema_extra
    roles: list[str] = extra["roles"]
    return roles


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    extra: Any = field.json_schema_extra
    flag = "--" + name.replace("_", "-")
    kind: Any = str
    if field.annotation is bool:
        kind, flag = bool, f"{flag}/--no-{flag[2:]}"
    elif _is_list(field):
        kind = list[str]
    text = f"{field.description} [{environment_names(name, field)[-1]}]"
    option = typer.Option(flag, help=text, rich_help_panel=extra["group"].capitalize(), show_default=False)
    return _parameter(name, Annotated[kind | None, option])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _is_list(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) in (tuple, dict)


def _from_flag(field: FieldInfo, value: Any) -> Any:
    if value is None or value == []:
        return None
    if isinstance(value, list):
        extra: Any = field.json_schema_extra
        return parse_text(field, extra["separator"].join(value))
    return value
