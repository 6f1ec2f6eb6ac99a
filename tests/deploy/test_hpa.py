"""The autoscaler that the chart's figures are tried with does as Kubernetes' and KEDA's documents say."""

import pytest

from tests.deploy.hpa import HPA, Policy, Rules

AT_ONCE = Rules(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
NEVER_SLOW = Rules(0, (Policy("Percent", 100, 15),))


def one(target: float = 100, up: Rules = AT_ONCE, down: Rules = NEVER_SLOW, least: int = 1, most: int = 100) -> HPA:
    return HPA([target], least, most, up, down)


@pytest.mark.parametrize(
    ("current", "each", "wanted"),
    [(1, 200, 2), (4, 50, 2), (4, 109, 4), (4, 91, 4), (4, 111, 5), (10, 89, 9), (3, 0, 1)],
)
def test_the_number_follows_the_ratio_but_for_a_tenth(current: int, each: float, wanted: int) -> None:
    assert one().decide(current, [each * current], 0) == wanted


def test_of_several_metrics_the_most_counts_and_one_unknown_holds_up_scaling_down() -> None:
    def two() -> HPA:
        return HPA([10, 5], 1, 20, AT_ONCE, NEVER_SLOW)

    assert two().decide(4, [40, 30], 0) == 6
    assert two().decide(4, [40, 0], 0) == 4
    assert two().decide(4, [10, None], 0) == 4
    assert two().decide(4, [60, None], 0) == 6
    assert two().decide(4, [None, None], 0) == 4


def test_it_goes_down_by_a_tenth_or_four_whichever_is_more() -> None:
    """The example of the documents: 80, a tenth a minute or four pods a minute."""
    down = Rules(0, (Policy("Percent", 10, 60), Policy("Pods", 4, 60)))
    hpa, number, trace = one(down=down), 80, [80]
    for minute in range(11):
        number = hpa.decide(number, [0], 60.0 * (minute + 1))
        trace.append(number)
    assert trace == [80, 72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20]


def test_within_a_period_no_more_is_changed_than_its_policy_says() -> None:
    up = Rules(0, (Policy("Pods", 2, 60),))
    hpa, number, trace = one(up=up), 1, []
    for tick in range(13):
        number = hpa.decide(number, [1000], 15.0 * tick)
        trace.append(number)
    assert trace == [3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7, 9]


def test_down_goes_to_the_most_and_up_to_the_least_that_was_wanted_within_the_window() -> None:
    hpa = one(up=Rules(30, (Policy("Pods", 100, 15),)), down=Rules(60, (Policy("Pods", 100, 15),)))
    wanted = [5, 5, 2, 2, 2, 2, 8, 3, 3, 3, 3]
    number, trace = 5, []
    for tick, each in enumerate(wanted):
        number = hpa.decide(number, [each * 100], 15.0 * tick)
        trace.append(number)
    assert trace == [5, 5, 5, 5, 5, 2, 2, 3, 3, 3, 3]


def test_bounds_hold() -> None:
    assert one(least=2, most=3).decide(2, [10_000], 0) == 3
    assert one(least=2, most=3).decide(2, [0], 0) == 2
