"""Whether the Kubernetes API would take an object: by its own schemas, and by those of what is installed besides."""

import json
import warnings
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a package that only this one needs
    import kubernetes_validate

VERSIONS = ("1.32", "1.37")
CUSTOM = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "crds").iterdir()}


class Refused(Exception):
    """The API would not take it; the message says why."""


def check(one: dict[str, Any], version: str) -> None:
    """Raises `Refused`. Unknown fields are refused too."""
    if one["kind"] in CUSTOM:
        _check_custom(one, CUSTOM[one["kind"]])
        for part in ("leaderTemplate", "workerTemplate"):
            if template := one["spec"].get("leaderWorkerTemplate", {}).get(part):
                check(_as_deployment(template), version)
        return
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as wrong:
        raise Refused(f"{one['kind']} {one['metadata']['name']}: {wrong}") from None


def _check_custom(one: dict[str, Any], schema: dict[str, Any]) -> None:
    if one["apiVersion"] != schema["apiVersion"]:
        raise Refused(f"{one['kind']} is of {schema['apiVersion']}")
    if unknown := one.keys() - {"apiVersion", "kind", "metadata", "spec"}:
        raise Refused(f"{one['kind']}: {unknown}")
    whole = {**schema["spec"], "definitions": schema["definitions"]}
    for error in Draft202012Validator(whole).iter_errors(one["spec"]):
        raise Refused(f"{one['kind']} {one['metadata']['name']}: {error.json_path}: {error.message}")


def _as_deployment(template: dict[str, Any]) -> dict[str, Any]:
    labels = template["metadata"]["labels"]
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "part"}, "spec": spec}
