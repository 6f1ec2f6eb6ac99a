"""The tests' fake engine as a process of its own: `python -m bench.fake '{"slots": 8, "token_delay_s": 0.05}'`.

It prints its address, and then, for every line that it reads, how many generations it was asked to start. A prompt's
tokens are those that the gateway estimates, and take `"token_cost_s"` each before the first of the answer; with
`"in_turn"`, as vLLM reads them: one prompt after the other.
"""

import asyncio
import json
import sys

import uvloop
from tests.gateway.fake_engine import Behaviour, FakeEngine, Record


async def main() -> None:
    options = json.loads(sys.argv[1])
    cost_s, in_turn = options.pop("token_cost_s", 0.0), options.pop("in_turn", False)
    read_at = 0.0
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with FakeEngine(**options) as engine:

        def costly(record: Record) -> Behaviour:
            nonlocal read_at
            now = asyncio.get_running_loop().time()
            read_at = max(read_at, now) if in_turn else now
            read_at += cost_s * len(record.raw_body) / 4
            return Behaviour(prompt_tokens=len(record.raw_body) // 4, head_delay_s=read_at - now)

        engine.default = costly
        print(engine.url, flush=True)
        while await lines.readline():
            print(sum(record.method == "POST" for record in engine.requests), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
