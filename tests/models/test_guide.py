"""The page about models does what it says, against a hub that has its tiny model."""

import os
from pathlib import Path

from tests.contract.test_guide import ROOT, Shell, blocks, is_as_told
from tests.models.fake_hub import FakeHub

PAGE = ROOT / "docs" / "models.md"


def test_the_page_about_models_does_what_it_says(tmp_path: Path, hub: FakeHub) -> None:
    shell = Shell(tmp_path, {8000: 0, 8001: 0, 8010: 0, 6379: 0})
    shell.environment |= {"HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "NO_PROXY": "*"}
    found = blocks(PAGE.read_text())
    assert len(found) > 7
    for block in found:
        done = shell.run(block.commands)
        where = f"{PAGE.name}:{block.line}: status {done.returncode}, printed:{os.linesep}{done.stdout}"
        assert done.returncode == block.status, where
        assert not block.expected or is_as_told(block.expected, done.stdout), where
