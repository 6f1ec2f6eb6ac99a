"""B2, B3: an engine's process that is killed or stopped is left, and no caller notices (`make bench-noticing`)."""

import signal

import pytest
from bench.noticing import ONE_S, Callers, serving, trial

STALL_S = 2.0


@pytest.mark.robustness
@pytest.mark.timeout(120)
async def test_an_engines_process_that_is_killed_or_stopped_is_left_and_no_caller_notices() -> None:
    async with serving(STALL_S) as (pid, url):
        callers = Callers(url)
        for how, bar_s in ((signal.SIGKILL, 1.0), (signal.SIGSTOP, STALL_S + 1.0)):
            noticed_s, answered_s = await trial(pid, url, how, callers)
            assert noticed_s < bar_s + 1.0, how  # a busy machine's second
            assert answered_s < bar_s + 1.0 + 2.0 + ONE_S, how
        await callers.stop()
    assert set(callers.ends) == {"answered"}
