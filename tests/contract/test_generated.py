"""Generated files say what the code says."""

import re
import tomllib
from pathlib import Path

from forebay.config.settings import Settings
from forebay.config.sources import load_settings
from forebay.generate.__main__ import ARTEFACTS, stale

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


def test_what_readme_and_docs_link_to_exists() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
