"""OpenAI's Files and Batch API through a real gateway, with the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr
from sqlalchemy import update

from forebay.policy.auth import UNLIMITED, Principal
from forebay.store import tables
from forebay.store.batches import PRIORITY, Batches, NotOurs
from forebay.store.database import Database
from forebay.store.files import DAY_S, Files
from forebay.store.keys import Keys
from tests.gateway.calls import CHAT, chat, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import Behaviour, FakeEngine
from tests.gateway.raw_client import connect, fetch
from tests.store.batch_files import begun, ended, jsonl, request_line, written
from tests.store.databases import new_key


@pytest.fixture
def flags(database_url: str, database: Database, tmp_path: Path) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "files_dir": tmp_path / "files", "batch_lease_s": 3.0}


@asynccontextmanager
async def official(running: Running, key: str = "sk-test") -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def answer_all_but(content: str, status: int) -> Any:
    """An engine's way with requests: an error for those that say this."""
    return lambda record: Behaviour(status=status) if content in str(record.body) else Behaviour()


def said(content: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


async def test_a_batch_from_its_file_to_its_files(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, official(running) as client:
        engine.on(CHAT, answer_all_but("wrong", 400))
        lines = [request_line(number) for number in range(20)]
        batch = await begun(client, *lines, request_line(20, **said("wrong")), metadata={"for": "a test"})
        assert (batch.object, batch.status, batch.metadata) == ("batch", "validating", {"for": "a test"})
        over = await ended(client, batch.id)
        counts = over.request_counts
        assert (over.status, counts.total, counts.completed, counts.failed) == ("completed", 21, 20, 1)
        assert over.created_at <= over.in_progress_at <= over.finalizing_at <= over.completed_at < over.expires_at
        answers = await written(client, over.output_file_id)
        assert [answer["custom_id"] for answer in answers] == [line["custom_id"] for line in lines]
        for number, answer in enumerate(answers):
            assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
            assert answer["response"]["body"]["usage"]["completion_tokens"] == 1 + number % 5
        (failed,) = await written(client, over.error_file_id)
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("line-20", 400)
        assert failed["response"]["body"]["error"]["type"] == "invalid_request_error"
        assert [one.id async for one in client.batches.list(limit=1)] == [batch.id]
        purposes = sorted([file.purpose async for file in client.files.list(limit=2)])
        assert purposes == ["batch", "batch_output", "batch_output"]
        assert (await client.files.retrieve(batch.input_file_id)).filename == "in.jsonl"
        for file_id in (batch.input_file_id, over.output_file_id, over.error_file_id):
            assert (await client.files.delete(file_id)).deleted
        assert [path for path in flags["files_dir"].rglob("*") if path.is_file()] == []
        with pytest.raises(openai.ConflictError) as refused:
            await client.batches.cancel(batch.id)
        assert refused.value.code == "batch_over"


async def test_a_file_that_is_no_batch_fails_it_and_each_line_is_told(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running, official(running) as client:
        wrong = [
            request_line(0),
            request_line(0),
            {**request_line(1), "url": "/v1/embeddings"},
            {**request_line(2), "method": "GET"},
            request_line(3, stream=True),
            {**request_line(4), "custom_id": ""},
            {"custom_id": "x"},
            "text",
        ]
        over = await ended(client, (await begun(client, *wrong)).id)
        assert (over.status, over.output_file_id, over.failed_at is None) == ("failed", None, False)
        assert [(error.line, error.code) for error in over.errors.data] == [
            (2, "duplicate_custom_id"),
            (3, "invalid_url"),
            (4, "invalid_method"),
            (5, "invalid_request"),
            (6, "invalid_custom_id"),
            (7, "invalid_request"),
            (8, "invalid_request"),
        ]
        empty = await ended(client, (await begun(client)).id)
        assert empty.errors.data[0].code == "empty_file"
        assert not engine.calls(CHAT)


async def test_a_batch_that_is_cancelled_keeps_what_is_done(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine(slots=1, token_delay_s=0.01) as engine:
        async with start_gateway(engine.url, **flags, batch_concurrency=2) as running, official(running) as client:
            batch = await begun(client, *(request_line(number, max_tokens=5) for number in range(300)))
            await engine.wait_for(lambda e: len(e.calls(CHAT)) > 5)
            with pytest.raises(openai.ConflictError) as refused:
                await client.files.delete(batch.input_file_id)
            assert refused.value.code == "file_in_use"
            assert (await client.batches.cancel(batch.id)).status == "cancelling"
            over = await ended(client, batch.id)
            assert (over.status, over.cancelled_at is None) == ("cancelled", False)
            answers = await written(client, over.output_file_id)
            assert len(answers) == over.request_counts.completed < 300
            await engine.wait_for(lambda e: e.running == 0)


async def test_what_is_not_done_within_the_window_says_so(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine(slots=1, token_delay_s=0.02) as engine:
        async with start_gateway(engine.url, **flags, batch_concurrency=2) as running, official(running) as client:
            batch = await begun(client, *(request_line(n, max_tokens=5) for n in range(100)), window="1s")
            over = await ended(client, batch.id)
            answers, failed = [await written(client, one) for one in (over.output_file_id, over.error_file_id)]
            assert over.status == "expired"
            assert {line["error"]["code"] for line in failed} == {"batch_expired"}
            assert sorted([line["custom_id"] for line in answers + failed]) == sorted(f"line-{n}" for n in range(100))
            assert (over.request_counts.completed, over.request_counts.failed) == (len(answers), len(failed))


async def test_a_caller_who_waits_goes_before_a_batch(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with FakeEngine(token_delay_s=0.01) as engine:
        one = {"engine_concurrency": 1, "batch_concurrency": 8}
        async with start_gateway(engine.url, **flags, **one) as running, official(running) as client:
            batch = await begun(client, *(request_line(number, max_tokens=5) for number in range(30)))
            await engine.wait_for(lambda e: len(e.calls(CHAT)) > 3)
            while running.gateway.pipeline.admission.queued < 7:
                await asyncio.sleep(0.005)
            before = len(engine.calls(CHAT))
            assert (await chat(running.url, **said("at once"))).status == 200
            place = [number for number, call in enumerate(engine.calls(CHAT)) if "at once" in str(call.body)]
            assert place[0] <= before + 1
            assert (await ended(client, batch.id)).request_counts.completed == 30


async def test_too_much_at_once_and_an_engine_that_fails_at_times_cost_no_line(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    _, key = new_key(Keys(database), concurrency=6)
    async with FakeEngine(token_delay_s=0.01) as engine, start_gateway(engine.url, **flags) as running:
        async with official(running, key) as client:
            engine.script(*(Behaviour(status=status) for status in (500, 503, 429)))
            over = await ended(client, (await begun(client, *(request_line(n) for n in range(12)))).id)
            assert (over.status, over.request_counts.completed, over.error_file_id) == ("completed", 12, None)
            refusals = [value for name, value in running.figures().items() if 'code="rate_limit_exceeded"' in name]
            assert sum(refusals) > 0


async def test_nobody_finds_anothers_files_and_batches(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    keys = [new_key(Keys(database), tenant=tenant)[1] for tenant in ("a", "a", "b")]
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        async with official(running, keys[0]) as mine, official(running, keys[1]) as ours:
            async with official(running, keys[2]) as theirs:
                over = await ended(mine, (await begun(mine, request_line(0))).id)
                assert (await ours.batches.retrieve(over.id)).id == over.id
                assert len(await written(ours, over.output_file_id)) == 1
                for file_id in (over.input_file_id, over.output_file_id):
                    for asked in (theirs.files.retrieve, theirs.files.content, theirs.files.delete):
                        with pytest.raises(openai.NotFoundError):
                            await asked(file_id)
                for asked_batch in (theirs.batches.retrieve, theirs.batches.cancel):
                    with pytest.raises(openai.NotFoundError):
                        await asked_batch(over.id)
                with pytest.raises(openai.NotFoundError):
                    await theirs.batches.create(
                        input_file_id=over.input_file_id, endpoint=CHAT, completion_window="24h"
                    )
                assert [one async for one in theirs.files.list()] == [one async for one in theirs.batches.list()] == []


async def test_a_key_that_is_revoked_ends_its_batches(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, secret = new_key(Keys(database))
    _, other = new_key(Keys(database))
    async with FakeEngine(slots=1, token_delay_s=0.02) as engine:
        async with start_gateway(engine.url, **flags, batch_concurrency=2) as running:
            async with official(running, secret) as client, official(running, other) as second:
                batch = await begun(client, *(request_line(number, max_tokens=5) for number in range(300)))
                await engine.wait_for(lambda e: len(e.calls(CHAT)) > 3)
                Keys(database).revoke(key.id, time())
                over = await ended(second, batch.id)
                assert (over.status, over.errors.data[0].code) == ("failed", "key_revoked")
                assert len(await written(second, over.output_file_id)) == over.request_counts.completed


async def test_a_gateway_that_drains_leaves_the_batch_to_the_next(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine(token_delay_s=0.005) as engine:
        async with start_gateway(engine.url, **flags) as running, official(running) as client:
            batch = await begun(client, *(request_line(number) for number in range(400)))
            await engine.wait_for(lambda e: len(e.calls(CHAT)) > 100)
        asked = len(engine.calls(CHAT))
        assert asked < 400
        async with start_gateway(engine.url, **flags) as running, official(running) as client:
            over = await ended(client, batch.id)
            assert (over.request_counts.completed, over.request_counts.failed) == (400, 0)
            assert len(await written(client, over.output_file_id)) == 400
        assert len(engine.calls(CHAT)) == 400


async def test_files_may_be_larger_than_other_bodies_and_have_bounds_of_their_own(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    bounds = {"max_body_bytes": 2048, "max_file_bytes": 300_000, "max_tenant_file_bytes": 500_000}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags, **bounds) as running:
        async with official(running) as client:
            content = b"x" * 250_000
            file = await client.files.create(file=("x", content), purpose="batch")
            assert (file.bytes, (await client.files.content(file.id)).content) == (len(content), content)
            await client.files.create(file=("x", content), purpose="batch")
            with pytest.raises(openai.APIStatusError) as refused:
                await client.files.create(file=("x", b"x"), purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (413, "no_room")
            with pytest.raises(openai.APIStatusError) as refused:
                await client.files.create(file=("x", b"x" * 300_000), purpose="batch")
            assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
            with pytest.raises(openai.BadRequestError):
                await client.files.create(file=("x", b"x"), purpose="assistants")
        async with connect(running.url) as raw:  # what nobody may send is thrown away, and the connection goes on
            for _ in range(2):
                await raw.request("POST", "/v1/files", {"x": "x" * 200_000}, {"authorization": "Bearer sk-no"})
                assert (await raw.read_response("POST")).status == 401
        refused_body = await fetch(
            running.url, "POST", "/v1/batches", {"input_file_id": 1}, authorization="Bearer sk-test"
        )
        assert (refused_body.status, error_of(refused_body)["param"]) == (400, "input_file_id")


async def test_without_a_database_there_are_no_batches_and_it_is_said(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running, official(running) as client:
        with pytest.raises(openai.NotFoundError, match="DATABASE_URL"):
            await client.files.create(file=("in.jsonl", jsonl(request_line(0))), purpose="batch")
        with pytest.raises(openai.NotFoundError, match="DATABASE_URL"):
            await client.batches.create(input_file_id="file-x", endpoint=CHAT, completion_window="24h")


def later(database: Database, seconds: float) -> None:
    """Let so much time go by for who holds a batch: it is told by the database's clock, which no test can turn."""
    with database.engine.begin() as connection:
        connection.execute(update(tables.batches).values(held_until=tables.batches.c.held_until - seconds))


def test_a_batch_is_one_gateways_until_it_is_silent(database: Database) -> None:
    batches = Batches(database, UNLIMITED)
    who = Principal(tenant="acme", key_id="key-1", priority=3)
    asked = {"input_file": "file-x", "endpoint": CHAT, "completion_window": "24h", "metadata": None}
    batches.create(who, asked, 60, 1000.0)
    assert batches.take(10, ["acme"]) is None
    first = batches.take(10, [])
    assert first is not None
    later(database, 5)
    assert batches.take(10, []) is None
    assert batches.hold(first, 10) == "validating"
    later(database, 8)
    assert batches.take(10, []) is None
    later(database, 3)
    second = batches.take(10, [])
    assert second is not None
    with pytest.raises(NotOurs):
        batches.hold(first, 10)
    assert batches.caller(second, 1021.0) == replace(who, priority=3 + PRIORITY)
    assert batches.cancel("acme", second.id, 1022.0).status == "cancelling"
    assert batches.advance(second, "in_progress") == "cancelling"


def test_files_whose_time_is_over_go_and_so_does_what_nobody_knows(database: Database, tmp_path: Path) -> None:
    files = Files(database, tmp_path / "files", most_bytes=100_000, keep_s=60.0)
    with (tmp_path / "in").open("wb+") as source:
        kept, gone = (files.take_in("acme", "in", source, wall) for wall in (time(), time() - 100))
    for path in (stray := files.path("acme", "stray"), files.path("acme", gone.id)):
        path.touch()
    files.sweep(time())
    assert stray.exists()
    files.sweep(time() + 2 * DAY_S)
    assert not stray.exists()
    assert not files.path("acme", gone.id).exists()
    assert not files.path("acme", kept.id).exists()
