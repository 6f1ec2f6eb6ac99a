"""Sampling by a name: what a preset fills in of a request. Pure.

A request names a preset in its field `preset`, else behind its model (`model:preset`), else in a header; the first of
these counts. What the request says itself wins, field by field; null says nothing. The engine sees the values and never
the name. Operators add presets of their own, or put others in the place of ours.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from forebay.refusals import BadRequest
from forebay.wire.shape import members_of

PresetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_SAID_NAME = 64  # of a preset that there is not, this much is said again


class Preset(BaseModel):
    """Values of sampling, as the OpenAI API and vLLM name and bound them; what is left out stays the model's own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=10**6)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None


BUILT_IN = {
    "deterministic": Preset(temperature=0.0, top_p=1.0),
    "creative": Preset(temperature=1.0, top_p=0.95),
    "balanced": Preset(temperature=0.7, top_p=0.9),
    "code_generation": Preset(temperature=0.2, top_p=0.95),
    "chat": Preset(temperature=0.7, top_p=0.95),
}


class Presets:
    """The presets by name; `own` are the operator's."""

    def __init__(self, own: Mapping[str, Preset]) -> None:
        self._fields = {
            name: preset.model_dump(exclude_none=True) for name, preset in sorted({**BUILT_IN, **own}.items())
        }

    def __repr__(self) -> str:
        return f"<Presets {', '.join(self._fields)}>"

    def describe(self) -> dict[str, dict[str, Any]]:
        """What each fills in."""
        return {name: dict(fields) for name, fields in self._fields.items()}

    def values(self, name: str) -> dict[str, Any]:
        """What one fills in. Raises `BadRequest` where there is no such preset."""
        if (fields := self._fields.get(name)) is None:
            known = ", ".join(self._fields)
            raise BadRequest(f"There is no preset {name[:_SAID_NAME]!r}; there are {known}.", param="preset")
        return fields

    def fill(self, body: bytes, name: str, taken: frozenset[str] | None, model: str | None) -> bytes:
        """A request's body with the values of a preset, without its name, and naming the model that is meant.

        `taken` are the fields that the endpoint has, None for all. Raises `BadRequest` where there is no such preset.
        """
        fields = self.values(name)
        said: dict[str, Any] = {key: value for key, value in members_of(body).items() if key != "preset"}
        for key, value in fields.items():
            if (taken is None or key in taken) and bytes(said.get(key, b"null")) == b"null":
                said[key] = value
        if model is not None:
            said["model"] = model
        return msgspec.json.encode(said)


def split_model(name: str | None) -> tuple[str, str] | None:
    """A model and the preset behind it; None where there is no such thing in a name."""
    model, colon, preset = (name or "").rpartition(":")
    return (model, preset) if colon and model and preset else None
