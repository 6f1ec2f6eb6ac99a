"""What all tests have: the real servers, and property tests that say what is wrong with the code, whatever its pace.

How fast this machine is just now is no part of that.
"""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.servers"]

settings.register_profile("forebay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forebay")
