"""A batch whose gateways are killed: each line is in the output once, and what was finished is not asked again."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from forebay.store.database import Database
from forebay.store.keys import Keys
from tests.gateway.calls import CHAT
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.store.batch_files import begun, ended, request_line, written
from tests.store.databases import new_key
from tests.store.test_usage_gateway import ledger_process

LINES = 2000
CONCURRENCY = 32
SETTINGS = {"FOREBAY_BATCH_CONCURRENCY": str(CONCURRENCY), "FOREBAY_BATCH_LEASE_S": "2", "FOREBAY_ACCESS_LOG": "false"}


async def asked(engine: FakeEngine, count: int) -> None:
    """Return when so many requests have come to the engine."""
    async with asyncio.timeout(45):
        while len(engine.calls(CHAT)) < count:
            await asyncio.sleep(0.01)


async def test_a_batch_whose_gateways_are_killed_has_each_line_once(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """The first is killed while a second is there to take the batch over, which is killed and started again."""
    _, key = new_key(Keys(database))
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine(token_delay_s=0.03))
        (gate := asyncio.Event()).set()
        engine.on(CHAT, Behaviour(faults=[Fault("head", gate)]))

        async def gateway() -> tuple[AsyncOpenAI, Any]:
            process, url = await stack.enter_async_context(ledger_process(engine, tmp_path, database_url, **SETTINGS))
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            return await stack.enter_async_context(client), process

        client, first = await gateway()
        batch = await begun(client, *(request_line(number) for number in range(LINES)))
        await asked(engine, 300)
        gate.clear()  # a process may take longer to start than the batch does
        client, second = await gateway()
        gate.set()
        for process in (first, second):
            await asked(engine, len(engine.calls(CHAT)) + 300)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            assert len(engine.calls(CHAT)) < LINES, "the batch was over before it was to be killed"
        client, _ = await gateway()
        over = await ended(client, batch.id)
        assert (over.status, over.request_counts.completed, over.request_counts.failed) == ("completed", LINES, 0)
        assert over.error_file_id is None
        lines = await written(client, over.output_file_id)
    assert [line["custom_id"] for line in lines] == [f"line-{number}" for number in range(LINES)]
    for number, line in enumerate(lines):
        assert line["response"]["body"]["usage"]["completion_tokens"] == 1 + number % 5
    assert len(engine.calls(CHAT)) <= LINES + 2 * CONCURRENCY
