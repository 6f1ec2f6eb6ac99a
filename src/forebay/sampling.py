"""Sampling presets by name: what each sends of a request's sampling parameters. What a request says itself wins."""

from enum import StrEnum

Sampling = dict[str, float | int]


class Preset(StrEnum):
    """The names of the presets."""

    deterministic = "deterministic"
    balanced = "balanced"
    creative = "creative"
    code_generation = "code_generation"
    chat = "chat"


def values(preset: Preset) -> Sampling:
    """The gateway's own values: what is sent means the same to any other server."""
    from forebay.policy.presets import BUILT_IN  # made with pydantic, which takes a tenth of a second to import

    return BUILT_IN[preset].model_dump(exclude_none=True)


def sampling(preset: Preset | None, **said: float | int | None) -> Sampling:
    """What to send: the preset's values, and over them what was said; without either, nothing: the model's own hold."""
    chosen = values(preset) if preset is not None else {}
    return {**chosen, **{name: value for name, value in said.items() if value is not None}}
