"""What happens between SIGTERM and the end."""

from functools import partial

from forebay.config.groups.group import ALL, Group, SecondsOrZero, declare

setting = partial(declare, group="drain")


class DrainSettings(Group):
    drain_delay_s: SecondsOrZero = setting(
        0.0,
        "Time to go on accepting after SIGTERM while readiness already says 503, seconds.",
        roles=ALL,
        hot=True,
    )
    drain_timeout_s: SecondsOrZero = setting(
        60.0, "Time for running requests to finish after that, seconds.", roles=ALL, hot=True
    )
