"""What tells an engine that is kept from computing from one that does not want to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.engines.waiting import Waiting

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
    waiting = Waiting()
    until(lambda: waiting.seconds([one]) > 0.2)

    os.kill(rivals[0], signal.SIGSTOP)
    until(lambda: (one / "stat").read_text().rpartition(")")[2].split()[0] == "T")
    before = waiting.seconds([one])
    computed = int((other / "schedstat").read_text().split()[0])
    until(lambda: int((other / "schedstat").read_text().split()[0]) > computed + 0.2e9)
    assert waiting.seconds([one]) == before


def a_process(directory: Path, *, state: str, turns: int, waited_ns: int = 3_000_000_000) -> Path:
    """/proc/PID of a process with one thread, as the kernel shows it."""
    thread = directory / "task" / "77"
    thread.mkdir(parents=True, exist_ok=True)
    (thread / "schedstat").write_text(f"1000 {waited_ns} {turns}\n")
    (thread / "stat").write_text(f"77 (VLLM) ::Worker) {state} 1 77 77 0\n")
    return directory


def test_a_thread_that_gets_no_turn_at_all_is_seen_waiting_before_the_kernel_counts_it(tmp_path: Path) -> None:
    waiting, begun = Waiting(), time.monotonic()
    assert waiting.seconds([a_process(tmp_path, state="R", turns=5)]) == 3.0
    until(lambda: time.monotonic() - begun > 0.05)
    assert waiting.seconds([tmp_path]) > 3.0
    assert waiting.seconds([a_process(tmp_path, state="R", turns=6, waited_ns=3_050_000_000)]) == 3.05
    assert waiting.seconds([a_process(tmp_path, state="S", turns=6)]) == 3.0
    assert waiting.seconds([a_process(tmp_path, state="R", turns=6)]) == 3.0, "it slept in between"
