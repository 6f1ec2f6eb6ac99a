"""`forebay.example.toml`: every setting with its meaning, range and default, commented out."""

from typing import Any, get_origin

from pydantic.fields import FieldInfo

from forebay.generate.fields import by_group, default_of, is_secret, range_of

HEADER = """\
# Generated from the code: `make generate`. Every setting of Forebay with its default.
# Copy to forebay.toml and take the '#' off what you change. The environment and flags go before this file.
"""


def render() -> str:
    return f"{HEADER}\n{body()}"


def body() -> str:
    """All settings, group by group."""
    lines = []
    for group, fields in by_group():
        lines.append(f"# --- {group} ---\n")
        for name, field in fields:
            limits = range_of(field)
            lines.append(f"# {field.description}{f' ({limits})' if limits else ''}")
            if is_secret(field):
                lines.append("# Better set in the environment, which is not checked in.")
            lines.append(f"# {name} = {default_of(field) or _example(field)}\n")
    return "\n".join(lines)


def _example(field: FieldInfo) -> Any:
    """What a setting without a default may look like."""
    origin = get_origin(field.annotation)
    if origin is tuple:
        return "[]"
    if origin is dict:
        return "{}"
    return "1" if "int" in str(field.annotation) or "float" in str(field.annotation) else '""'
