"""Property tests say what is wrong with the code; how fast this machine is just now is no part of it."""

from hypothesis import HealthCheck, settings

settings.register_profile("forebay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("forebay")
