"""The simple endpoints, and names for ways to sample."""

from functools import partial

from forebay.config.groups.group import Group, declare
from forebay.policy.presets import Preset, PresetName

setting = partial(declare, group="native")


class NativeSettings(Group):
    max_batch_prompts: int = setting(32, "Most prompts in one request to /generate/batch.", ge=1, le=10_000, hot=True)
    presets: dict[PresetName, Preset] = setting(
        {},
        "Sampling presets besides deterministic, creative, balanced, code_generation and chat, or in their place, as a "
        "table: presets.terse = {temperature = 0.3, top_p = 0.9}; JSON in the environment. Fields: temperature, top_p, "
        "top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty, seed.",
        roles=(),
        hot=True,
    )
