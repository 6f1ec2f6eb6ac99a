"""When an engine counts as stalled, told with the clock in hand."""

from forebay.policy.progress import Progress


def test_an_idle_engine_is_never_stalled() -> None:
    progress = Progress(5)
    progress.counted(7, 0.0)
    progress.counted(7, 1000.0)
    assert not progress.stalled(None, 1000.0)


def test_a_busy_engine_whose_counter_moves_is_never_stalled_though_no_byte_comes() -> None:
    progress = Progress(5)
    for second in range(1000):
        progress.counted(float(second), float(second))
        assert not progress.stalled(0.0, float(second))


def test_relayed_bytes_are_progress_though_the_counter_cannot_be_read() -> None:
    progress = Progress(5)
    for second in range(1000):
        progress.moved(float(second))
        assert not progress.stalled(0.0, second + 5.0)


def test_a_frozen_counter_with_work_pending_is_a_stall() -> None:
    progress = Progress(5)
    progress.counted(7, 99.0)
    progress.counted(7, 104.0)
    assert not progress.stalled(100.0, 104.0), "the work is not old enough"
    progress.counted(7, 105.1)
    assert progress.stalled(100.0, 105.2)
    progress.counted(8, 106.0)
    assert not progress.stalled(100.0, 106.0)


def test_silence_takes_twice_as_long() -> None:
    progress = Progress(5)
    progress.counted(7, 99.0)
    assert not progress.stalled(100.0, 109.9)
    assert progress.stalled(100.0, 110.1)


def test_old_news_of_a_counter_proves_nothing() -> None:
    progress = Progress(5)
    progress.counted(7, 50.0)
    assert not progress.stalled(100.0, 109.0), "read before the work came"


def test_an_engine_that_is_seen_computing_is_given_longer_but_not_for_ever() -> None:
    progress = Progress(5)
    for second in range(16):
        progress.counted(7, float(second))
        progress.computed(busy_s=0.5 * second, now=float(second))
        assert not progress.stalled(0.5, float(second)), "a long step"
    progress.counted(7, 16.0)
    progress.computed(8.0, 16.0)
    assert progress.stalled(0.5, 16.0), "a deadlock that spins"


def test_an_engine_that_is_seen_to_use_no_processor_time_is_not_given_longer() -> None:
    progress = Progress(5)
    for second in range(6):
        progress.computed(busy_s=90.0 + 0.1 * second, now=float(second))  # its front polls
        assert not progress.stalled(0.5, float(second))
    progress.computed(90.6, 6.0)
    assert progress.stalled(0.5, 6.0), "its counter could not be read, its processes could"
