"""What all tests have: the real servers, and property tests that say what is wrong with the code, whatever its pace.

How fast this machine is just now is no part of that.
"""

from time import sleep, time

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers"]

settings.register_profile("forebay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forebay")

DAY_S = 86_400


@pytest.fixture(autouse=True)
def one_day() -> None:
    """No test begins on one day (UTC) and ends on the next: usage and budgets are counted by the day."""
    left_s = DAY_S - time() % DAY_S
    if left_s < 45:
        sleep(left_s)
