#!/usr/bin/env python3
"""Render some of the chart's examples for who has no Helm: deploy/k8s/NAME.yaml of deploy/helm/examples/NAME.yaml.

What is Helm's own is left out: its test, its notes, its labels. `--check` says which files differ, and writes none.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "forebay"
EXAMPLES = ROOT / "deploy" / "helm" / "examples"
RENDERED = ROOT / "deploy" / "k8s"
NAMES = ("cpu-minimal", "one-gpu", "keda-from-zero")
RELEASE, NAMESPACE = "forebay", "forebay"
HEADER = """\
# Rendered from deploy/helm/examples/{name}.yaml: `make generate`. For the namespace `forebay`, whose name is in it:
#   kubectl create namespace forebay
#   kubectl --namespace forebay create secret generic forebay-keys \\
#     --from-literal=api-keys=sk-… --from-literal=upstream-api-key=sk-…
#   kubectl --namespace forebay apply -f {name}.yaml
"""
HELMS_OWN = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")


def render(values: dict[str, Any], release: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """The chart with some values: what each template makes."""
    with Chart.load(CHART) as chart:
        made = chart.render(values, name=release, namespace=namespace)
    return {path.removeprefix("forebay/templates/"): text for path, text in made.items()}


def example(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    return values


def manifest(name: str) -> str:
    """One file of all that an example makes."""
    made = render(example(name))
    parts = [
        made[path].strip().removeprefix("---") for path in sorted(made) if path.endswith(".yaml") and "/" not in path
    ]
    lines = [line for part in parts if part.strip() for line in ("---", *part.splitlines())]
    return HEADER.format(name=name) + "".join(
        f"{line}\n" for line in lines if line.strip() and not line.strip().startswith(HELMS_OWN)
    )


def main() -> int:
    stale = [name for name in NAMES if _read(name) != manifest(name)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"deploy/k8s/{name}.yaml is not what the chart says: run `make generate`", file=sys.stderr)
        return 1 if stale else 0
    RENDERED.mkdir(exist_ok=True)
    for name in stale:
        (RENDERED / f"{name}.yaml").write_text(manifest(name))
    return 0


def _read(name: str) -> str:
    path = RENDERED / f"{name}.yaml"
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
