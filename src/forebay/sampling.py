"""Sampling presets by name: what each sends of a request's sampling parameters. What a request says itself wins."""

from enum import StrEnum

from forebay.policy.presets import BUILT_IN

Sampling = dict[str, float | int]


class Preset(StrEnum):
    """The names of the presets."""

    deterministic = "deterministic"
    balanced = "balanced"
    creative = "creative"
    code_generation = "code_generation"
    chat = "chat"


# The gateway's own values: what is sent means the same to any other server.
PRESETS: dict[Preset, Sampling] = {name: BUILT_IN[name].model_dump(exclude_none=True) for name in Preset}


def sampling(preset: Preset | None, **said: float | int | None) -> Sampling:
    """What to send: the preset's values, and over them what was said; without either, nothing: the model's own hold."""
    chosen = PRESETS[preset] if preset is not None else {}
    return {**chosen, **{name: value for name, value in said.items() if value is not None}}
