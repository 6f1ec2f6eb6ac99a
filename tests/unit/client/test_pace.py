"""How much is asked for at once: it grows while that helps, and shrinks when it is too much."""

from forebay.client.pace import FIRST_SIZE, REST, SAMPLES, Pace


class Engine:
    """An engine that does `parallel` prompts in the time of one, and more of them in proportionally more."""

    def __init__(self, parallel: int) -> None:
        self.parallel = parallel
        self.now = 0.0

    def answer(self, pace: Pace, requests: int) -> None:
        for _ in range(requests):
            sent_at, prompts = self.now, pace.size
            self.now += max(prompts / self.parallel, 1.0)
            pace.answered(prompts, (self.now - sent_at) / prompts, sent_at, self.now)


def test_the_size_grows_up_to_the_most_where_a_prompt_becomes_cheaper() -> None:
    pace = Pace(100, 4)
    sizes = [pace.size]
    engine = Engine(1000)
    for _ in range(5):
        engine.answer(pace, SAMPLES)
        sizes.append(pace.size)
    assert sizes == [8, 16, 32, 64, 100, 100]


def test_the_size_stays_where_a_larger_one_gains_nothing_and_tries_again_later() -> None:
    pace, engine = Pace(256, 4), Engine(16)
    engine.answer(pace, 2 * SAMPLES)
    assert pace.size == 32, "16 was better than 8"
    engine.answer(pace, SAMPLES)
    assert pace.size == 16, "32 was no better than 16"
    engine.answer(pace, REST)
    assert pace.size == 16
    engine.parallel = 64
    engine.answer(pace, 3 * SAMPLES)
    assert pace.size == 128
    engine.answer(pace, SAMPLES)
    assert pace.size == 64


def test_small_requests_say_nothing_of_what_larger_ones_would_cost() -> None:
    pace = Pace(64, 4)
    for at in range(50):
        pace.answered(FIRST_SIZE - 1, 1.0, at, at + 1)
    assert pace.size == FIRST_SIZE


def test_a_refusal_halves_both_once_for_all_that_was_sent_before() -> None:
    pace = Pace(64, 8)
    for _ in range(5):
        pace.refused(1.0, 2.0)
    assert (pace.size, pace.places) == (4, 4)
    pace.refused(3.0, 4.0)
    assert (pace.size, pace.places) == (2, 2)
    for at in range(5, 20):
        pace.refused(at, at + 0.5)
    assert (pace.size, pace.places) == (1, 1)


def test_places_come_back_one_by_one_while_nothing_is_refused() -> None:
    pace, engine = Pace(64, 6), Engine(8)
    pace.refused(1.0, 2.0)
    engine.now = 3.0
    engine.answer(pace, REST - 1)
    assert pace.places == 3
    engine.answer(pace, 1)
    assert pace.places == 4
    engine.answer(pace, REST - 1)
    pace.refused(engine.now, engine.now)
    engine.answer(pace, REST - 1)
    assert pace.places == 2
    engine.answer(pace, 10 * REST)
    assert pace.places == 6


def test_nothing_is_sent_within_a_pause_or_without_a_place() -> None:
    pace = Pace(64, 1)
    pace.pause(5.0)
    pace.pause(3.0)
    assert [pace.is_open(now) for now in (4.9, 5.0)] == [False, True]
    pace.running = 1
    assert not pace.is_open(6.0)
