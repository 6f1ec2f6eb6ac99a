"""Generated files say what the code says."""

import re
import tomllib
from pathlib import Path

from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from forebay.generate.__main__ import ARTEFACTS, stale
from forebay.telemetry.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]


def test_none_has_drifted() -> None:
    assert stale(ROOT) == []


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    assert stale(tmp_path) == list(ARTEFACTS)


def test_the_example_holds_every_setting_and_its_defaults_are_the_defaults() -> None:
    text = (ROOT / "forebay.example.toml").read_text()
    lines = re.findall(r"^# (\w+ = .+)$", text, re.MULTILINE)
    values = tomllib.loads("\n".join(lines))
    assert set(values) == set(Settings.model_fields)
    stated = {
        name: value for name, value in values.items() if Settings.model_fields[name].default not in (None, (), {})
    }
    assert Settings(**stated) == load_settings({}, env={})[0]


def test_every_metric_is_in_its_reference() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    assert all(f"`{metric.name}`" in text for metric in CATALOGUE)


def test_what_readme_and_docs_link_to_exists() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_named_in_the_docs_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert target in targets, f"{page.name} names make {target}"
