"""Budgets of tokens a day and a month go on after a restart, from the usage ledger; where they do not, it is said."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.policy.grants import Grant, Limits
from forebay.policy.usage import Counts
from forebay.store import seeded_limits, usage
from forebay.store.database import Database
from forebay.store.keys import Keys
from forebay.store.spool import Batch, open_spool
from tests.gateway.calls import CHAT, chat, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import Response, connect
from tests.store.databases import made, new_key
from tests.store.test_gateway import ask
from tests.waiting import until

SPENT = Behaviour(prompt_tokens=60, tokens=40)


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "usage_flush_s": 0.1}


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for the ledger however slow the machine is just now."""
    monkeypatch.setattr(seeded_limits, "WAIT_S", 30.0)


def used(database: Database, tenant: str, key: str, tokens: int, *, days_ago: int = 0) -> None:
    """Have it in the ledger that a key used so many tokens."""
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    with database.engine.begin() as connection:
        counts = Counts(requests=1, prompt_tokens=tokens // 2, completion_tokens=tokens - tokens // 2)
        batch = Batch(0.0, [((day.isoformat(), tenant, key, "m"), counts)])
        usage.add(connection, f"writer-{tenant}-{key}-{days_ago}", [(1, batch)])


def is_budgets(answer: Response, kind: str, subject: str) -> bool:
    error = error_of(answer)
    told = f"tokens per {kind} (UTC) for {subject} is reached"
    return answer.status == 429 and error["code"] == "insufficient_quota" and told in error["message"]


def forgetting(running: Running) -> list[str]:
    return [line["message"] for line in running.log_lines() if "begin anew" in line["message"]]


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("limits", "kind", "subject"),
    [
        ({"key_limits": {"tokens_per_day": 250}}, "day", "this key"),
        ({"tenant_limits": {"tokens_per_month": 250}}, "month", "this tenant"),
        ({"global_limits": {"tokens_per_day": 250}}, "day", "all callers"),
    ],
    ids=["key", "tenant", "all"],
)
async def test_a_restart_does_not_give_a_budget_anew(
    limits: dict[str, Any], kind: str, subject: str, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine:
        engine.default = SPENT
        async with start_gateway(engine.url, **limits, **flags) as running:
            assert [(await chat(running.url, max_tokens=40)).status for _ in range(2)] == [200, 200]
        for _ in range(2):
            async with start_gateway(engine.url, **limits, **flags) as running:
                assert is_budgets(await chat(running.url, max_tokens=100), kind, subject)
                assert running.figures()["forebay_limits_budgets_unknown"] == 0
                await running.stop()
                assert forgetting(running) == []
        async with start_gateway(engine.url, **limits, **flags) as running:
            assert (await chat(running.url, max_tokens=10)).status == 200
            assert is_budgets(await chat(running.url, max_tokens=10), kind, subject)


@pytest.mark.usefixtures("unhurried")
async def test_requests_that_come_at_once_after_a_restart_share_what_is_left(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, secret = new_key(Keys(database), tokens_per_day=10_000)
    used(database, "acme", key.id, 9_300)
    prompt = len(json.dumps(chat_body(max_tokens=75))) // 4  # what is reserved for it
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.default = Behaviour(prompt_tokens=prompt, tokens=100 - prompt)
        answers = await asyncio.gather(*(ask(running, secret, max_tokens=100 - prompt) for _ in range(30)))
        passed = sum(answer.status == 200 for answer in answers)
        assert passed == 7, "700 were left"
        assert all(is_budgets(answer, "day", "this key") for answer in answers if answer.status != 200)
        accounts = running.gateway.local_limits._accounts.values()
        assert [one.day_tokens for one in accounts] == [9_300 + 100 * passed]
        assert all(one.running == one.sight.pending == one.sight.pending_tokens == 0 for one in accounts if one.sight)


@pytest.mark.usefixtures("unhurried")
async def test_yesterday_is_in_the_months_budget_and_not_in_the_days(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    store.set_tenant("acme", Limits(tokens_per_month=1000))
    key, secret = new_key(store, tokens_per_day=500)
    _, other = new_key(store)
    for days_ago in range(1, 32):
        used(database, "acme", key.id, 10, days_ago=days_ago)
    used(database, "acme", key.id, 7)
    used(database, "umbrella", "another", 10**9)
    this_month = 10 * (datetime.now(UTC).day - 1) + 7
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.default = SPENT
        assert (await ask(running, secret, max_tokens=40)).status == 200
        assert (await ask(running, other, max_tokens=40)).status == 200
        accounts = running.gateway.local_limits._accounts
        assert accounts[f"key:{key.id}"].day_tokens == 7 + 100
        assert accounts["tenant:acme"].month_tokens == this_month + 200


@pytest.mark.usefixtures("unhurried")
async def test_a_budget_that_a_key_is_given_later_counts_what_it_used_before(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    key, secret = new_key(store)
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.default = SPENT
        assert (await ask(running, secret, max_tokens=40)).status == 200
        await until(lambda: usage.spent(database, [f"key:{key.id}"], datetime.now(UTC).date()) != {})
        store.change(key.id, Grant(tokens_per_day=120))
        async with asyncio.timeout(20):
            while (answer := await ask(running, secret, max_tokens=100)).status == 200:
                await asyncio.sleep(0.05)
        assert is_budgets(answer, "day", "this key")


@pytest.mark.usefixtures("unhurried")
async def test_what_a_gateway_that_was_killed_left_in_its_spool_counts_too(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, secret = new_key(Keys(database), tokens_per_day=500)
    async with FakeEngine() as engine:
        async with start_gateway(engine.url, **flags) as running:
            ledger = running.gateway.ledger
            assert ledger is not None
            root = ledger.spool.root
        left = open_spool(root, 10**6)
        entry = datetime.now(UTC).date().isoformat(), "acme", key.id, "m"
        left.put({entry: Counts(requests=1, prompt_tokens=450)}, datetime.now(UTC).timestamp())
        left.close()  # as the kernel does it for who is killed
        async with start_gateway(engine.url, **flags) as running:
            assert is_budgets(await ask(running, secret, max_tokens=100), "day", "this key")


async def test_without_the_database_budgets_count_from_then_on_and_it_is_said(
    postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    database = made(postgres)
    flags = {"database_url": postgres, "database_timeout_s": 2.0, "usage_flush_s": 0.1}
    async with FakeEngine() as engine:
        engine.default = SPENT
        async with start_gateway(engine.url, key_limits={"tokens_per_day": 500}, **flags) as running:
            cut_postgres(True)
            assert [(await chat(running.url, max_tokens=40)).status for _ in range(2)] == [200, 200]
            assert running.figures()["forebay_limits_budgets_unknown"] == 1
            (account,) = running.gateway.local_limits._accounts.values()
            cut_postgres(False)
            used(database, "", account.name.partition(":")[2], 300)
            async with asyncio.timeout(30):
                while running.figures()["forebay_limits_budgets_unknown"]:
                    await asyncio.sleep(0.02)
            assert account.day_tokens in (300, 500), "its own 200 are in the ledger by now, or come soon"
            await running.stop()
            told = [line["message"] for line in running.log_lines() if "budgets" in line["message"]]
            assert ["cannot be looked up" in line for line in told] == [True, False], "each is said once"
    database.close()


async def test_without_a_ledger_it_is_said_once_that_budgets_begin_anew(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine:
        async with start_gateway(engine.url, global_limits={"tokens_per_month": 500}) as running:
            await chat(running.url)
            await running.stop()
            assert len(forgetting(running)) == 1
        _, secret = new_key(Keys(database), tokens_per_day=10_000)
        async with start_gateway(engine.url, usage_ledger=False, **flags) as running:
            for _ in range(2):
                await ask(running, secret)
            await until(lambda: len(forgetting(running)) == 2)
            await running.stop()
            assert len(forgetting(running)) == 2, "one line each"


async def test_who_leaves_while_the_ledger_is_asked_leaves_nothing_behind(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    _, secret = new_key(Keys(database), tokens_per_day=1000, concurrency=1)
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        ledger = running.gateway.ledger
        assert ledger is not None
        await until(ledger.caught_up.is_set)
        ledger.caught_up.clear()  # as while a dead gateway's spool is still coming in
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(max_tokens=900), {"authorization": f"Bearer {secret}"})
            await until(lambda: bool(running.gateway.pipeline.running))
            await until(lambda: running.figures()["forebay_limits_budgets_unknown"] == 1)
        await until(lambda: not running.gateway.pipeline.running)
        ledger.caught_up.set()
        assert (await ask(running, secret, max_tokens=900)).status == 200
        (account,) = running.gateway.local_limits._accounts.values()
        assert account.sight is not None
        assert (account.running, account.sight.pending, account.sight.pending_tokens) == (0, 0, 0)
        assert engine.calls(CHAT)[1:] == []
