"""What tenants ask for is shown of the most active, by name, and the number of series never grows."""

from forebay.telemetry.tenants import OTHER, TURN_S, TenantFigures


def ask(figures: TenantFigures, tenant: str, times: int = 1, *, tokens: int = 0, refused: bool = False) -> None:
    for _ in range(times):
        figures.ended(tenant, tokens, 2 * tokens, refused)


def requests(figures: TenantFigures) -> dict[str, int]:
    return {name: counts.requests for name, counts in figures.all()}


def test_tenants_are_named_while_there_is_room_and_summed_up_beyond() -> None:
    figures = TenantFigures(2)
    for tenant in ("a", "b", "c", "d", "a"):
        ask(figures, tenant)
    assert requests(figures) == {"a": 2, "b": 1, OTHER: 2}


def test_tokens_and_refusals_are_counted_and_where_no_engine_counted_the_events() -> None:
    figures = TenantFigures(1)
    ask(figures, "a", tokens=10)
    figures.ended("a", 0, 7, True)
    counts = figures.named["a"]
    assert (counts.requests, counts.prompt_tokens, counts.tokens, counts.refusals) == (2, 10, 27, 1)


def test_one_who_floods_gets_a_name_at_the_next_turn() -> None:
    figures = TenantFigures(2)
    ask(figures, "quiet")
    ask(figures, "busy", 50)
    ask(figures, "flood", 1000)
    figures.turn(TURN_S)
    ask(figures, "flood", 5)
    assert requests(figures) == {"busy": 50, "flood": 5, OTHER: 1000}


def test_tokens_are_activity_too() -> None:
    figures = TenantFigures(1)
    ask(figures, "small", 20)
    ask(figures, "large", 2, tokens=100_000)
    figures.turn(TURN_S)
    assert set(figures.named) == {"large"}


def test_names_do_not_change_hands_for_little_nor_before_it_is_time() -> None:
    figures = TenantFigures(2)
    ask(figures, "a", 100)
    ask(figures, "b", 9)
    ask(figures, "c", 15)
    ask(figures, "d", 90)
    figures.turn(TURN_S - 1)
    assert set(figures.named) == {"a", "b"}
    figures.turn(TURN_S)
    assert set(figures.named) == {"a", "d"}
    ask(figures, "b", 9)  # more than the rest, and still next to nothing
    figures.turn(2 * TURN_S)
    assert set(figures.named) == {"a", "d"}


def test_a_tenant_that_is_called_as_the_others_are_is_one_of_them() -> None:
    figures = TenantFigures(5)
    ask(figures, OTHER, 1000)
    ask(figures, "a")
    figures.turn(TURN_S)
    assert requests(figures) == {"a": 1, OTHER: 1000}


def test_none_are_kept_where_none_are_wanted() -> None:
    figures = TenantFigures(0)
    ask(figures, "a", 100)
    figures.turn(TURN_S)
    assert figures.all() == []
    assert figures.of_waiting([("a", 3)]) == {}


def test_who_waits_is_counted_under_the_same_names() -> None:
    figures = TenantFigures(1)
    ask(figures, "a")
    assert figures.of_waiting([("a", 3), ("b", 4), ("a", 1), ("c", 5)]) == {"a": 4, OTHER: 9}
