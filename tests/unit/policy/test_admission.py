"""Who is let in, who waits, who is refused: one story a test."""

import pytest

from forebay.policy.admission import Admission
from forebay.policy.drain_rate import DrainRate
from forebay.policy.fairness import TENANTS_REMEMBERED, FairQueue
from forebay.policy.line import Place
from forebay.refusals import Overloaded
from tests.unit.policy.line import MODEL, Engines, admission, is_in, principal, refused


def take(
    where: Admission,
    tenant: str = "a",
    *,
    now: float = 0.0,
    tokens: int = 10,
    patience_s: float = 1e9,
    priority: int = 0,
) -> Place:
    return where.acquire(principal(tenant, priority), MODEL, tokens, now, patience_s)


def test_where_there_is_room_nothing_is_waited_for_and_beyond_it_one_waits_for_the_next_free_place() -> None:
    where = admission(2)
    first, second, third = take(where), take(where), take(where)
    assert (first.granted, second.granted) == (None, None)
    assert third.granted is not None
    assert not is_in(third)
    first.release("answered", 1.0)
    assert is_in(third)
    assert third.granted.done()  # type: ignore[attr-defined]
    second.release("failed", 1.0)
    third.release("cancelled", 1.0)
    assert repr(where) == "<Admission 0/100000 [<Line m running=0/2 queued=0>]>"
    with pytest.raises(RuntimeError):
        third.release("cancelled", 1.0)


def test_who_leaves_the_queue_frees_its_place_in_it_at_once() -> None:
    where = admission(1, most_queued=1)
    running, waiting = take(where), take(where)
    with pytest.raises(Overloaded):
        take(where)
    waiting.release("cancelled", 0.0)
    after = take(where)
    running.release("answered", 1.0)
    assert is_in(after)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    where = admission(1, most_queued=2)
    running = [take(where)]
    waiting = [take(where), take(where)]
    for now in range(8):  # one place comes free every 2 s
        running.pop().release("answered", 2.0 * now)
        running.append(waiting.pop(0))
        waiting.append(take(where, now=2.0 * now))
    with pytest.raises(Overloaded, match="queue for this model is full") as full:
        take(where, now=14.0)
    assert (full.value.status, full.value.code) == (503, "server_is_overloaded")
    assert full.value.retry_after_s == pytest.approx(3 * 14 / 8, rel=0.2)
    assert where.lines[MODEL].refused["full"] == 1


def test_a_hopeless_wait_is_refused_at_once_but_only_once_the_rate_is_known() -> None:
    where = admission(1)
    places = [take(where, patience_s=1e6) for _ in range(11)]
    assert take(where, patience_s=0.01) is not None, "nothing is known yet"
    for number in range(6):
        places[number].release("answered", 1.0 + number)
    with pytest.raises(Overloaded, match="about 6 s"):
        take(where, now=6.0, patience_s=5.0)
    assert take(where, now=6.0, patience_s=7.0).granted is not None
    assert take(where, "b", now=6.0, patience_s=5.0).granted is not None, "another tenant's turn comes sooner"
    assert where.lines[MODEL].refused["hopeless"] == 1


def test_a_deadline_that_passes_in_the_queue_is_never_let_in() -> None:
    where = admission(1)
    running, soon, later = take(where), take(where, patience_s=1.0), take(where, patience_s=9.0)
    where.sweep(0.9)
    assert not refused(soon)
    where.sweep(1.0)
    assert refused(soon)
    overdue = take(where, now=1.0, patience_s=0.5)
    later.release("cancelled", 1.0)
    running.release("answered", 2.0)  # before any sweep
    assert refused(overdue)
    assert not is_in(overdue)
    soon.release("refused", 2.0)
    overdue.release("refused", 2.0)
    assert (where.under_way, where.queued, where.lines[MODEL].running) == (0, 0, 0)
    assert where.lines[MODEL].refused["deadline"] == 2


def test_whoever_fills_the_queue_gives_way_to_a_tenant_with_fewer_waiting() -> None:
    where = admission(1, most_queued=4)
    running, *flood = [take(where, "elephant") for _ in range(5)]
    mouse = take(where, "mouse")
    assert [refused(place) for place in flood] == [False, False, False, True], "the newest goes"
    with pytest.raises(Overloaded):
        take(where, "elephant")
    running.release("answered", 1.0)
    assert is_in(mouse)
    assert where.lines[MODEL].refused == {"full": 1, "hopeless": 0, "standing": 0, "deadline": 0, "gave_way": 1}


def test_with_equal_shares_of_a_full_queue_nobody_gives_way() -> None:
    where = admission(1, most_queued=5)
    _, *waiting = [take(where, "a"), *(take(where, tenant) for tenant in "aaabb")]
    for tenant in "ab":  # one more of b's for one less of a's would be as unequal
        with pytest.raises(Overloaded):
            take(where, tenant)
    assert not any(refused(place) for place in waiting)


def test_a_higher_priority_goes_first_and_lower_ones_give_way_to_it() -> None:
    where = admission(1, most_queued=2)
    running = take(where)
    low, middle = take(where, "a", priority=-1), take(where, "b")
    high = take(where, "c", priority=5)
    assert (refused(low), refused(middle)) == (True, False)
    with pytest.raises(Overloaded):
        take(where, "d", priority=-1)
    running.release("answered", 1.0)
    assert is_in(high)
    high.release("answered", 2.0)
    assert is_in(middle)


def test_the_limit_follows_the_engines_and_without_one_nobody_is_kept_waiting() -> None:
    engines = Engines(1)
    where = admission(engines)
    first, second, third = take(where), take(where), take(where)
    engines.capacity = 2
    where.sweep(1.0)
    assert is_in(second)
    engines.capacity = 1
    where.sweep(2.0)
    first.release("answered", 3.0)
    assert not is_in(third), "one too many still runs"
    engines.capacity = 0
    where.sweep(4.0)
    assert take(where).granted is None, "routing refuses it, and says why"
    assert not is_in(third)
    engines.capacity = 4
    where.sweep(5.0)
    assert is_in(third)


def test_a_model_without_engines_that_gets_one_lets_in_at_once() -> None:
    engines = Engines(0)
    where = admission(engines)
    take(where).release("refused", 0.0)
    engines.capacity = 1
    assert take(where).granted is None
    assert take(where).granted is not None, "one runs, as many as may"


def test_all_requests_under_way_are_bounded_those_that_are_no_engine_work_too() -> None:
    where = admission(1, most_under_way=3)
    places = [take(where), take(where), where.acquire_unqueued()]
    for acquire in (lambda: take(where), where.acquire_unqueued):
        with pytest.raises(Overloaded):
            acquire()
    for place in places:
        place.release("answered", 1.0)
    assert where.under_way == 0


def test_fifo_is_by_arrival_whoever_it_is() -> None:
    where = admission(1, fair=False)
    running = take(where, "a")
    waiting = [take(where, tenant) for tenant in "aaab"]
    running.release("answered", 1.0)
    assert [is_in(place) for place in waiting] == [True, False, False, False]


def test_what_was_estimated_is_put_right_also_while_the_tenant_waits() -> None:
    where = admission(2)
    small, big = take(where, "b", tokens=10), take(where, "a", tokens=1000)
    first, second = take(where, "b"), take(where, "a")
    assert first.tenant.counter == second.tenant.counter, "and it would be b's turn, which was let in before a"
    big.served(0, 0)  # the engine refused it
    big.release("answered", 1.0)
    assert (is_in(first), is_in(second)) == (False, True)
    small.release("answered", 1.0)
    assert is_in(first)


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    where = admission(1)
    running = take(where, "busy")
    for _ in range(100):
        running.served(10, 100)
        running.release("answered", 1.0)
        running = take(where, "busy")
    waiting = [take(where, tenant, tokens=100) for tenant in ("busy", "back", "back", "busy", "back")]
    order = []
    while waiting:
        running.release("answered", 2.0)
        running = next(place for place in waiting if is_in(place))
        waiting.remove(running)
        order.append(running.tenant.name)
    assert order == ["back", "busy", "back", "busy", "back"]


def test_a_tenant_that_comes_to_wait_is_lifted_to_the_smallest_of_those_who_wait() -> None:
    queue: FairQueue[str] = FairQueue()
    patient, greedy = queue.arrived("patient", 1.0), queue.arrived("greedy", 1.0)
    queue.push(patient, 0, "patient's")
    greedy.counter = 1000.0
    queue.push(greedy, 1, "greedy's")
    assert queue.pop() == "greedy's"
    patient.counter = 50.0
    assert queue.arrived("new", 1.0).counter == 50.0
    assert queue.pop() == "patient's"
    assert queue.arrived("later", 1.0).counter == 50.0


def test_the_place_of_a_tenant_that_is_soon_back_is_kept_for_a_moment_and_no_longer() -> None:
    where = admission(2)
    steady, running, *flood = [take(where, "flood") for _ in range(5)]
    quiet = take(where, "quiet")
    running.release("answered", 1.0)
    assert is_in(quiet)
    quiet.release("answered", 2.0)
    assert is_in(flood[0]), "nobody knew that it would be back"
    quiet = take(where, "quiet", now=2.01)
    flood[0].release("answered", 3.0)
    steady.served(10, 1000)
    quiet.release("answered", 4.0)
    assert not is_in(flood[1])
    quiet = take(where, "quiet", now=4.01)
    assert quiet.granted is None, "it found its place"
    steady.served(10, 2000)
    quiet.release("answered", 5.0)
    where.sweep(5.09)
    assert (where.lines[MODEL].running, is_in(flood[1])) == (2, False)
    where.sweep(5.11)
    assert (where.lines[MODEL].running, is_in(flood[1])) == (2, True), "it did not come back"


def test_no_place_is_kept_for_a_tenant_whose_turn_it_would_not_be() -> None:
    where = admission(1)
    quiet, other = take(where, "quiet"), take(where, "other")
    quiet.served(1000, 1000)
    quiet.tenant.returns = True
    quiet.release("answered", 1.0)
    assert is_in(other)


def test_tenants_that_have_nothing_under_way_are_forgotten_in_time() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.arrived("stays", 1.0).held = 1
    for number in range(3 * TENANTS_REMEMBERED):
        queue.arrived(f"passing-{number}", 1.0)
    assert len(queue._tenants) <= TENANTS_REMEMBERED
    assert "stays" in queue._tenants


def test_a_storm_of_requests_that_come_and_leave_leaves_no_trace() -> None:
    where = admission(1)
    take(where)
    for number in range(20_000):
        take(where, f"tenant-{number % 7}", priority=number % 3).release("cancelled", 0.0)
    line = where.lines[MODEL]
    assert (where.under_way, line.queue.size, len(line._deadlines) < 100) == (1, 0, True)
    assert not line.queue._classes


def test_the_drain_rate_is_that_of_the_last_few_dozen_and_falls_when_nothing_comes() -> None:
    rate = DrainRate()
    rate.waiting_began(100.0)
    assert rate.wait_s(1, 100.0, places=1, waiting=True) is None
    for number in range(200):
        rate.freed(100.0 + number / 10, 1)
    for number in range(200):
        rate.freed(120.0 + number, 1)
    assert rate.wait_s(5, 319.0, places=1, waiting=True) == pytest.approx(5, rel=0.1)
    assert rate.wait_s(5, 419.0, places=1, waiting=False) == pytest.approx(5, rel=0.1), "idle time is not counted"
    assert rate.wait_s(5, 419.0, places=1, waiting=True) > 15  # type: ignore[operator]


def test_requests_that_began_together_and_end_together_are_not_taken_for_a_rate() -> None:
    """A burst fills twenty places at once: nothing ends for a second, then all do."""
    rate = DrainRate()
    rate.waiting_began(0.0)
    for turn in range(1, 9):
        for number in range(20):
            now = turn + number / 1000
            rate.freed(now, 20)
            wait_s = rate.wait_s(20, now, places=20, waiting=True)
            if (turn, number) < (2, 19):
                assert wait_s is None
            else:
                assert wait_s == pytest.approx(1.0, rel=0.5)
