"""What docs/benchmarking.md tells to type works, and prints what the page says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.test_guide import ROOT, Shell, blocks, free_ports, is_as_told

PAGE = ROOT / "docs" / "benchmarking.md"


def test_the_page_on_benchmarks_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBAY_API_KEY", raising=False)
    shell = Shell(tmp_path, free_ports(8000))
    mock = [sys.executable, str(ROOT / "bench" / "mock_engine.py"), str(shell.ports[8000])]
    with subprocess.Popen(mock, env={**os.environ, "N": "50", "GAP_MS": "2"}) as engine:
        try:
            shell.until_ready(f"http://127.0.0.1:{shell.ports[8000]}/health")
            done = [(block, shell.run(block.commands)) for block in blocks(PAGE.read_text())]
        finally:
            engine.kill()
    assert len(done) == 4
    for block, one in done:
        assert one.returncode == block.status, f"{PAGE.name}:{block.line}: {one.stdout}"
        assert not block.expected or is_as_told(shell.here(block.expected), one.stdout), one.stdout
    assert (tmp_path / "latency.html").stat().st_size > 10_000
    assert (tmp_path / "sweep.html").stat().st_size > 10_000
