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


PRESETS: dict[Preset, Sampling] = {
    Preset.deterministic: {"temperature": 0.0, "top_p": 1.0, "seed": 0},
    Preset.balanced: {"temperature": 0.7, "top_p": 0.9},
    Preset.creative: {"temperature": 1.0, "top_p": 0.95, "presence_penalty": 0.3},
    Preset.code_generation: {"temperature": 0.2, "top_p": 0.95},
    Preset.chat: {"temperature": 0.6, "top_p": 0.9, "frequency_penalty": 0.1},
}


def sampling(preset: Preset | None, **said: float | int | None) -> Sampling:
    """What to send: the preset's values, and over them what was said; without either, nothing: the model's own hold."""
    chosen = PRESETS[preset] if preset is not None else {}
    return {**chosen, **{name: value for name, value in said.items() if value is not None}}
