"""Who used how much, and what it costs."""

from functools import partial
from pathlib import Path

from forebay.config.groups.group import MIB, Group, declare
from forebay.policy.prices import Price

setting = partial(declare, group="usage")


class UsageSettings(Group):
    usage_ledger: bool = setting(
        True, "Keep a ledger of usage, by key, model and day, where there is a database for keys."
    )
    usage_flush_s: float = setting(
        1.0,
        "Longest time for which usage is in memory only, and lost if the process is killed, seconds.",
        ge=0.1,
        le=60,
        allow_inf_nan=False,
    )
    usage_spool_dir: Path | None = setting(
        None,
        "Where usage is kept until the database has it; a directory below FOREBAY_HOME, else ~/.local/share/forebay, "
        "where it is not set. Gateways of one machine may share it.",
    )
    max_usage_spool_bytes: int = setting(
        256 * MIB,
        "Most that one gateway spools while the database is away, bytes; then usage stays in memory.",
        ge=64 * 1024,
    )
    usage_spool_days: int = setting(
        30,
        "Time after which spooled usage is too old for the database and dropped, days.",
        ge=1,
        le=3650,
    )
    prices: dict[str, Price] = setting(
        {},
        "What a million tokens of a model cost, as a table: prices.'model' = {prompt = 0.15, completion = 0.6}, and "
        "cached_prompt where that differs; JSON in the environment. Any currency, for the column cost.",
        roles=(),
    )
