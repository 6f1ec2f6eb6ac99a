"""The ledger and the audit log through a real gateway; and through real gateway processes that are killed."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.store.database import Database
from forebay.store.keys import Keys
from forebay.store.usage import Question, Sum, sums
from tests.gateway.calls import CHAT, chat, chat_body, error_of
from tests.gateway.command import gateway_process
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import Response, connect, fetch
from tests.store.databases import made, new_key
from tests.waiting import until

ADMIN = {"authorization": "Bearer sk-admin"}
KILLS = 3  # on each of the two databases
FLUSH_S = 0.3
CURSORS = [
    f"after={of}" for of in ("ImFiYyI=", "WyJcdWQ4MDAiLCJiIiwiYyJd", "WyJcdTAwMDAiLCJiIiwiYyJd")
]  # "abc", D800, NUL
WRITE_S = 1.5  # what a flush may take where the machine is busy


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "admin_keys": ("sk-admin",), "usage_flush_s": FLUSH_S}


def by(database: Database, *dimensions: Any) -> list[Sum]:
    return sums(database, Question(by=dimensions), {})


async def told(running: Running, path: str, status: int = 200) -> Any:
    answer = await fetch(running.url, "GET", f"/admin/v1{path}", **ADMIN)
    assert answer.status == status, answer.body
    return answer.json()


async def test_the_ledger_is_what_the_engine_did(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, secret = new_key(Keys(database))
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        for number in range(3):
            await chat(running.url, stream=bool(number), max_tokens=4)
        answer = await fetch(running.url, "POST", CHAT, chat_body(max_tokens=2), authorization=f"Bearer {secret}")
        assert answer.status == 200
        engine.script(Behaviour(status=400))
        assert (await chat(running.url)).status == 400
        assert (await chat(running.url, model="another")).status == 404
        assert (await fetch(running.url, "POST", CHAT, chat_body(), authorization="Bearer sk-no")).status == 401
        await running.stop()
        prompt = engine.prompt_tokens // 4
        found = {(line.of["key"], line.of["model"]): line.counts for line in by(database, "key", "model")}
        fixed = next(name for name, model in found if name != key.id and model)
        assert {name: (c.requests, c.errors, c.prompt_tokens, c.completion_tokens) for name, c in found.items()} == {
            (key.id, "fake-model"): (1, 0, prompt, 2),
            (fixed, "fake-model"): (4, 1, 3 * prompt, 12),
            (fixed, ""): (1, 1, 0, 0),
        }


async def test_a_stream_that_is_left_counts_what_was_delivered_as_estimated(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        engine.script(Behaviour(tokens=9, faults=[Fault("token", "hang", after=5)]))
        async with connect(running.url) as raw:
            await raw.request("POST", CHAT, chat_body(stream=True), {"authorization": "Bearer sk-test"})
            await engine.wait_for(lambda e: e.tokens_sent == 5)
            (exchange,) = running.gateway.pipeline.running
            await until(lambda: exchange.events_out >= 5)
        await until(lambda: exchange.finished)
        await running.stop()
    (line,) = by(database, "model")
    assert (line.counts.requests, line.counts.errors) == (1, 0)
    assert line.counts.completion_tokens == line.counts.estimated_tokens == exchange.events_out


async def test_administrators_read_usage_and_deeds_page_by_page(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    prices = {"fake-model": {"prompt": 0, "completion": "2.5"}}
    async with FakeEngine() as engine, start_gateway(engine.url, prices=prices, **flags) as running:
        keys = [new_key(Keys(database), tenant=f"t{number}") for number in range(3)]
        for _, secret in keys:
            await fetch(running.url, "POST", CHAT, chat_body(max_tokens=4), authorization=f"Bearer {secret}")
        await until(lambda: len(by(database, "tenant")) == 3)
        lines, after = [], ""
        while after is not None:
            page = await told(running, f"/usage?by=tenant&by=model&limit=2&after={after}")
            lines, after = lines + page["usage"], page["after"]
        assert [(line["tenant"], line["model"], line["completion_tokens"]) for line in lines] == [
            (f"t{number}", "fake-model", 4) for number in range(3)
        ]
        assert [line["cost"] for line in lines] == ["0.00001"] * 3
        assert "key" not in lines[0]
        only = await told(running, f"/usage?key={keys[1][0].id}&since=2000-01-01")
        assert [line["tenant"] for line in only["usage"]] == ["t1"]
        assert (await told(running, "/usage?until=2000-01-01"))["usage"] == []
        for wrong in ("by=hour", "after=AAAA", "after=WyJ4Il0=&by=day", *CURSORS, "since=x", "limit=0"):
            refused = await told(running, f"/usage?{wrong}", 400)
            assert refused["error"]["param"].split(".")[0] == wrong.partition("=")[0]
        made_here = await fetch(running.url, "POST", "/admin/v1/keys", {"tenant": "t9"}, **ADMIN)
        (deed,) = (await told(running, "/audit?target=" + made_here.json()["id"]))["audit"]
        assert (deed["action"], deed["address"], deed["details"]) == ("key.created", "127.0.0.1", {"tenant": "t9"})
        assert deed["actor"].startswith("key-")
        first = await told(running, "/audit?limit=3")
        rest = await told(running, f"/audit?limit=3&after={first['after']}")
        assert [len(first["audit"]), len(rest["audit"]), rest["after"]] == [3, 1, None]
        await running.stop()
        lines = [line for line in running.log_lines() if line["message"] == "administration"]
        assert [line["target"] for line in lines] == [*(key.id for key, _ in keys), made_here.json()["id"]]
        assert made_here.json()["key"] not in running.log_file.read_text()


async def test_without_a_database_there_is_no_ledger_and_it_is_said(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        assert (await chat(running.url)).status == 200
        assert running.gateway.ledger is None
        for path in ("/usage", "/audit"):
            assert "keys_database" in (await told(running, path, 404))["error"]["message"]


async def test_the_ledger_can_be_switched_off(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, usage_ledger=False) as running:
        assert (await chat(running.url)).status == 200
        await running.stop()
    assert by(database) == []


async def test_serving_goes_on_without_postgresql_and_usage_comes_later(
    postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    database = made(postgres)
    flags = {"database_url": SecretStr(postgres), "database_timeout_s": 1.0, "usage_flush_s": FLUSH_S}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, admin_keys=("sk-admin",)) as running:
        assert (await chat(running.url)).status == 200
        cut_postgres(True)
        for _ in range(5):
            assert (await chat(running.url)).status == 200
        await until(lambda: running.figures()["forebay_usage_spool_bytes"] > 0)
        await until(lambda: running.figures()['forebay_usage_failures_total{to="database"}'] > 0)
        answer = await fetch(running.url, "GET", "/admin/v1/usage", **ADMIN)
        assert (answer.status, error_of(answer)["code"]) == (503, "database_unavailable")
        cut_postgres(False)
        await until(lambda: sum(line.counts.requests for line in by(database)) == 6)
        assert running.figures()["forebay_usage_dropped_total"] == 0
    database.close()


async def test_what_the_database_could_not_take_before_the_end_comes_with_the_next_start(
    postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    database = made(postgres)
    flags = {"database_url": SecretStr(postgres), "database_timeout_s": 1.0, "usage_flush_s": FLUSH_S}
    async with FakeEngine() as engine:
        async with start_gateway(engine.url, **flags) as running:
            cut_postgres(True)
            assert (await chat(running.url)).status == 200
        cut_postgres(False)
        async with start_gateway(engine.url, **flags):
            await until(lambda: sum(line.counts.requests for line in by(database)) == 1)
    database.close()


# Gateways that are killed


def ledger_process(
    engine: FakeEngine, directory: Path, url: str, **env: str
) -> AbstractAsyncContextManager[tuple[asyncio.subprocess.Process, str]]:
    """A gateway in a process of its own, with a database and a journal beside it."""
    flags = ("--health-interval-s", "0.1", "--usage-flush-s", str(FLUSH_S))
    return gateway_process(engine.url, *flags, **{"FOREBAY_HOME": str(directory), "DATABASE_URL": url, **env})


async def ask_until_killed(where: str, key: str, answered: list[float]) -> None:
    """Ask again and again on one connection; note when each answer was in."""
    with suppress(ConnectionError, asyncio.IncompleteReadError, AssertionError, EOFError):
        async with connect(where) as raw:
            while True:
                await raw.request("POST", CHAT, chat_body(max_tokens=3), {"authorization": f"Bearer {key}"})
                answer: Response = await raw.read_response("POST")
                assert answer.status == 200
                answered.append(monotonic())


async def test_a_kill_costs_one_interval_at_most_and_nothing_is_counted_twice(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """Each time with a key of its own, so that what is lost or doubled cannot make up for another time's."""
    keys = [new_key(Keys(database), tenant=f"t{number}")[1] for number in range(KILLS)]
    bounds = []
    async with FakeEngine() as engine:
        for number, key in enumerate(keys):
            asked = len(engine.calls(CHAT))
            answered: list[float] = []
            async with ledger_process(engine, tmp_path, database_url) as (process, where):
                clients = [asyncio.create_task(ask_until_killed(where, key, answered)) for _ in range(4)]
                async with asyncio.timeout(60):
                    while len(answered) < 100 or answered[-1] - answered[0] < 2 * FLUSH_S + WRITE_S + 0.07 * number:
                        await asyncio.sleep(0.005)
                killed = monotonic()
                process.send_signal(signal.SIGKILL)
                await asyncio.gather(*clients)
            sure = sum(when < killed - FLUSH_S - WRITE_S for when in answered)
            bounds.append((sure, len(engine.calls(CHAT)) - asked))
        async with ledger_process(engine, tmp_path, database_url) as (process, _):
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        prompt = engine.prompt_tokens // len(engine.calls(CHAT))
    found = [line.counts for line in by(database, "tenant")]
    assert len(found) == KILLS
    for counts, (sure, most) in zip(found, bounds, strict=True):
        assert 0 < sure <= counts.requests <= most
        assert (counts.prompt_tokens, counts.completion_tokens) == (prompt * counts.requests, 3 * counts.requests)


async def test_two_gateway_processes_share_a_ledger_and_a_drain_leaves_nothing_behind(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    _, key = new_key(Keys(database))
    async with (
        FakeEngine() as engine,
        ledger_process(engine, tmp_path, database_url) as (first, one),
        ledger_process(engine, tmp_path, database_url) as (second, two),
    ):
        for where in (one, two) * 20:
            answer = await fetch(where, "POST", CHAT, chat_body(max_tokens=3), authorization=f"Bearer {key}")
            assert answer.status == 200
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    (line,) = by(database)
    assert (line.counts.requests, line.counts.completion_tokens) == (40, 120)
