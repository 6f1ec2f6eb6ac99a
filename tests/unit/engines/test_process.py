"""What is known of an engine's processes from outside."""

import asyncio
import os
import sys

from forebay.engines.process import EngineProcess
from forebay.engines.spec import EngineSpec

# As vLLM does, the process that is started has others compute and hold the memory.
FAMILY = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "held = bytearray(60_000_000)\\nwhile True: pass"], start_new_session=True)
"""


async def test_the_time_and_the_memory_of_all_that_it_started_are_its_own() -> None:
    spec = EngineSpec("engine-0", "m", None, (sys.executable, "-c", FAMILY), dict(os.environ))
    process = await EngineProcess.spawn(spec)
    try:
        async with asyncio.timeout(20):
            while process.resident_bytes() < 60_000_000:
                await asyncio.sleep(0.01)
            before = process.busy_seconds()
            while process.busy_seconds() < before + 0.3:
                await asyncio.sleep(0.01)
    finally:
        process.kill()
        await process.wait()
    assert process.resident_bytes() == 0
