"""The JSON Schema of a file of settings: what editors and other programs check one with before Forebay does."""

from typing import Any

from forebay.config.settings import Settings
from forebay.config.sources import environment_names
from forebay.generate.fields import is_secret

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OURS = ("group", "aliases", "roles", "separator", "per_model", "hot")


def schema() -> dict[str, Any]:
    """Every setting with its type, range, default and meaning, and the variables that set it in the environment."""
    found: dict[str, Any] = Settings.model_json_schema()
    for name, told in found["properties"].items():
        hot, group = told["hot"], told["group"]
        for key in _OURS:
            del told[key]
        field = Settings.model_fields[name]
        told |= {"x-group": group, "x-environment": environment_names(name, field), "x-hot": hot}
        if is_secret(field):
            told["x-secret"] = True
    return {"$schema": DIALECT, **found, "title": "Forebay's settings", "description": "A file of settings (TOML)."}
