"""How much callers may use."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from forebay.config.groups.group import Group, declare

LimitName = Literal["requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month"]
Limits = dict[LimitName, Annotated[int, Field(ge=1, le=10**15)]]
setting = partial(declare, group="limits")


class LimitSettings(Group):
    key_limits: Limits = setting(
        {},
        "What each key may use that has no limits of its own: requests_per_minute, tokens_per_minute, concurrency, "
        "tokens_per_day, tokens_per_month; name=number, comma-separated in the environment. Callers without a key are "
        "one key and one tenant together.",
        hot=True,
    )
    tenant_limits: Limits = setting(
        {}, "What each tenant may use, all its keys together, that has no limits of its own.", hot=True
    )
    address_limits: Limits = setting(
        {},
        "What each client address may use, where no keys are set; an IPv6 address counts as its /64.",
        hot=True,
    )
    global_limits: Limits = setting({}, "What all callers together may use.", hot=True)
    default_max_tokens: int = setting(
        256,
        "Tokens reserved for an answer where the request does not say how many it may have; what is generated is what "
        "counts in the end.",
        ge=1,
        le=1_000_000,
        hot=True,
    )
