"""`python -m forebay.generate` writes every generated file; `--check` says which differ, and writes none."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from forebay.generate import (
    cli_reference,
    endpoints_reference,
    engine_states,
    errors_reference,
    example_toml,
    grafana,
    helm_schema,
    metrics_reference,
    prometheus_rules,
    settings_reference,
    sizing,
)
from forebay.monitoring.uses import DASHBOARDS

ARTEFACTS: dict[str, Callable[[], str]] = {
    "forebay.example.toml": example_toml.render,
    "docs/reference/settings.md": settings_reference.render,
    "docs/reference/metrics.md": metrics_reference.render,
    "docs/reference/errors.md": errors_reference.render,
    "docs/reference/endpoints.md": endpoints_reference.render,
    "docs/reference/cli.md": cli_reference.render,
    "docs/reference/engine-states.md": engine_states.render,
    "docs/reference/sizing.md": sizing.render,
    "deploy/prometheus/alerts.yaml": prometheus_rules.render_alerts,
    "deploy/prometheus/recording.yaml": prometheus_rules.render_recordings,
    "deploy/helm/forebay/values.schema.json": helm_schema.render,
    "deploy/helm/forebay/files/alerts.yaml": prometheus_rules.render_alerts,
    "deploy/helm/forebay/files/recording.yaml": prometheus_rules.render_recordings,
    **{
        f"deploy/helm/forebay/files/dashboards/{board.name}.json": partial(grafana.render, board)
        for board in DASHBOARDS
    },
    **{f"deploy/grafana/dashboards/{board.name}.json": partial(grafana.render, board) for board in DASHBOARDS},
}


def stale(root: Path) -> list[str]:
    """The generated files below `root` that are not what the code says now."""
    return [name for name, render in ARTEFACTS.items() if _read(root / name) != render()]


def write(root: Path) -> None:
    """Write all of them."""
    for name, render in ARTEFACTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(render(), encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def main() -> int:
    root = Path.cwd()
    if "--check" not in sys.argv[1:]:
        write(root)
        return 0
    names = stale(root)
    for name in names:
        print(f"{name} is not what the code says: run `make generate`", file=sys.stderr)
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
