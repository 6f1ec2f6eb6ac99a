"""What tells an engine that is kept from computing from one that does not want to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.engines.process import waited_ns

SPIN = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


@pytest.fixture
def rivals() -> Iterator[list[int]]:
    """Two processes that want the same processor."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(2)]
    yield [process.pid for process in processes]
    for process in processes:
        process.kill()
        process.wait()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_others_keep_from_running_is_seen_waiting_and_a_stopped_one_is_not(rivals: list[int]) -> None:
    one, other = (Path(f"/proc/{pid}") for pid in rivals)
    if not (one / "schedstat").exists():
        pytest.skip("this kernel does not tell")
    until(lambda: waited_ns(one) > 0.2e9)

    os.kill(rivals[0], signal.SIGSTOP)
    until(lambda: (one / "stat").read_text().rpartition(")")[2].split()[0] == "T")
    before = waited_ns(one)
    computed = int((other / "schedstat").read_text().split()[0])
    until(lambda: int((other / "schedstat").read_text().split()[0]) > computed + 0.2e9)
    assert waited_ns(one) == before
