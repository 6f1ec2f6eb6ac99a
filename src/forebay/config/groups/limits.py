"""How much callers may use."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from forebay.config.groups.group import Group, declare

LimitName = Literal["requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month"]
Limits = dict[LimitName, Annotated[int, Field(ge=1, le=10**12)]]
setting = partial(declare, group="limits")


class LimitSettings(Group):
    key_limits: Limits = setting(
        {},
        "What each key may use that has no limits of its own: requests_per_minute, tokens_per_minute, concurrency, "
        "tokens_per_day, tokens_per_month; name=number, comma-separated in the environment. Callers without a key are "
        "one key and one tenant together. Budgets (a day, a month; UTC) outlast the process with redis_url, or with a "
        "database's usage ledger; without either they are in one process's memory and begin anew with it.",
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

    @property
    def has_budgets(self) -> bool:
        """Whether anybody's tokens a day or a month are bounded here."""
        bounded = (self.key_limits, self.tenant_limits, self.address_limits, self.global_limits)
        return any("tokens_per_day" in limits or "tokens_per_month" in limits for limits in bounded)
