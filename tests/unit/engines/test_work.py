"""When an engine through which we see no traffic is asked for a token, and when it has stalled."""

from forebay.engines.work import Work

STALL_S, IDLE_S = 10.0, 30.0


def a_work() -> Work:
    return Work(STALL_S, IDLE_S, 0.0)


def test_work_without_a_step_is_a_stall_and_each_step_puts_it_off() -> None:
    work = a_work()
    for now in range(1, 21):
        work.read(2, steps=now, now=now)
        assert work.stalled_for(now) is None
    work.read(2, steps=20, now=30)
    assert work.stalled_for(30) is None  # the last step was at 20
    work.read(2, steps=20, now=30.5)
    assert work.stalled_for(30.5) == 29.5


def test_an_idle_engine_never_stalls_and_is_asked_for_a_token_after_a_while() -> None:
    work = a_work()
    for now in range(1, 31):
        work.read(0, steps=5, now=now)
        assert not work.probe_due(now)
    work.read(0, steps=5, now=31)
    assert work.probe_due(31)
    assert work.stalled_for(3000) is None


def test_a_step_between_two_looks_is_work_too() -> None:
    work = a_work()
    work.read(0, steps=5, now=1)
    work.read(0, steps=6, now=29)
    assert not work.probe_due(58)
    assert work.probe_due(59)


def test_a_token_that_does_not_come_is_a_stall_and_one_that_comes_is_not() -> None:
    work = a_work()
    work.read(0, steps=5, now=1)
    work.asked(40)
    assert not work.probe_due(80)  # one at a time
    work.read(0, steps=5, now=51)
    assert work.stalled_for(51) == 11
    work.answered(51)
    assert work.stalled_for(3000) is None
    assert not work.probe_due(80)
    assert work.probe_due(81)


def test_a_token_that_waits_behind_others_is_no_stall_while_steps_are_taken() -> None:
    work = a_work()
    work.read(0, steps=5, now=1)
    work.asked(40)
    for now in range(41, 200):
        work.read(9, steps=now, now=now)
        assert work.stalled_for(now) is None


def test_a_token_is_asked_for_before_work_that_stands_still_is_called_a_stall() -> None:
    work = a_work()
    work.read(1, steps=5, now=100)
    assert not work.probe_due(104)
    assert work.probe_due(105)


def test_an_engine_that_takes_no_connection_has_not_stalled() -> None:
    work = a_work()
    work.read(2, steps=5, now=100)
    work.asked(105)
    work.refused(106)
    work.computed(1.0, now=300)
    assert work.stalled_for(300) is None
    assert not work.probe_due(135)
    assert work.probe_due(136)


def test_a_reading_that_failed_is_no_idleness_and_no_proof() -> None:
    unread = a_work()
    assert not unread.probe_due(3000)
    assert unread.stalled_for(3000) is None
    idle = a_work()
    idle.read(0, steps=5, now=1)
    assert idle.stalled_for(3000) is None
    busy = a_work()
    busy.read(1, steps=5, now=1)
    assert busy.stalled_for(20) is None
    assert busy.stalled_for(22) == 21  # work was seen, and then silence for twice the time


def test_of_a_time_when_nobody_looked_it_is_not_blamed() -> None:
    work = a_work()
    work.read(2, steps=5, now=1)
    work.excuse(60)
    work.read(2, steps=5, now=60)  # it was frozen too
    assert work.stalled_for(60) is None
    work.read(2, steps=5, now=71)
    assert work.stalled_for(71) == 70
