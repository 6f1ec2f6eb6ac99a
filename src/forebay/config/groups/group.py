"""What all groups of settings have in common: how one is declared, and the kinds that many share.

A file beside this one declares one group, its own checks included; a check that looks at two groups stands in
`config/settings.py`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MIB = 1024 * 1024
SERVE = ("serve",)
GATEWAY = ("gateway",)
ENGINE = ("engine",)
ENGINES = ("serve", "engine")
ALL = ("serve", "gateway", "engine")

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class Group(BaseModel):
    """Some of the settings, immutable. Nobody makes one alone, so its validation is not built: that takes time."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, defer_build=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Else `true` would be a limit of 1."""
        named = cls.model_fields[field.field_name or ""].annotation
        if named is not bool and any(type(one) is bool for one in (value.values() if type(value) is dict else [value])):
            raise ValueError("true and false are no values of this")
        return value


def without_password(url: str) -> str:
    """A URL that may be shown, in logs and on command lines. Raises ValueError where a user or password is in it."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("a user or password in a URL would be shown; give engines a key by upstream_api_key")
    return url


def declare(
    default: Any,
    help: str,
    *,
    group: str,
    aliases: tuple[str, ...] = (),
    roles: tuple[str, ...] = ("serve", "gateway"),
    separator: str = ",",
    per_model: bool = False,
    hot: bool = False,
    **constraints: Any,
) -> Any:
    """Declare one setting. `help` says meaning and unit; `roles` are the commands that take it as an option.

    `separator` stands between a list's parts in the environment; `per_model` tells that each of several models may have
    its own; `hot` that a running process follows a change of it.
    """
    extra: dict[str, Any] = {"group": group, "aliases": list(aliases), "roles": list(roles), "separator": separator}
    extra |= {"per_model": per_model, "hot": hot}
    return Field(default, description=help, json_schema_extra=extra, **constraints)
