"""What docs/planning.md tells to type works, and prints what the page says."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from tests.contract.test_guide import Block, blocks, is_as_told

PAGE = Path(__file__).parents[2] / "docs" / "planning.md"
BLOCKS = blocks(PAGE.read_text())


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}")
def test_the_page_on_planning_does_what_it_says(block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    program, *words = shlex.split(block.commands)
    assert program == "forebay"
    done = CliRunner().invoke(app, words)
    assert done.exit_code == block.status
    assert is_as_told(block.expected, done.output), done.output


def test_each_command_on_the_page_is_tried() -> None:
    assert len(BLOCKS) == PAGE.read_text().count("```sh") == 4
