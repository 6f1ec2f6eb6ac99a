"""Answers that are known already."""

from functools import partial

from forebay.config.groups.group import MIB, Group, Seconds, declare

setting = partial(declare, group="cache")


class CacheSettings(Group):
    cache_models: tuple[str, ...] = setting(
        (),
        "Models whose answers are cached, by the name that engines know them by; '*' for all. For others a request may "
        "ask with the header x-forebay-cache: use.",
        aliases=("CACHE_MODELS",),
        hot=True,
    )
    cache_sampled: bool = setting(
        False,
        "Cache answers that are drawn at random too, not only those with temperature 0 or a seed.",
        hot=True,
    )
    cache_ttl_s: Seconds = setting(300.0, "Time a cached answer is given out, seconds.", hot=True)
    cache_max_bytes: int = setting(
        64 * MIB,
        "Memory for cached answers in each gateway, bytes; no answer longer than a sixteenth of it is kept, and 0 "
        "turns the cache off.",
        ge=0,
        le=64 * 1024 * MIB,
        hot=True,
    )
    cache_wait_s: Seconds = setting(
        60.0,
        "Longest time a request waits for the answer to an identical one that is under way, before it is sent on its "
        "own, seconds.",
        hot=True,
    )
    cache_shared: bool = setting(False, "Share cached answers among gateways; needs redis_url.")
