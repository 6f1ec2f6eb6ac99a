"""B4, B12: a gateway that was not there for a while (stopped, frozen with its container) blames nobody for it."""

import asyncio
import json
import signal

from tests.gateway.calls import AUTH, CHAT, chat, chat_body
from tests.gateway.command import gateway_process
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault
from tests.gateway.raw_client import connect, fetch, text_of, token_numbers

TIMES = ("engine-stall-s", "stall-timeout-s", "first-byte-timeout-s", "header-timeout-s", "keepalive-timeout-s")
SHORT = [word for name in TIMES for word in (f"--{name}", "1")]
ONCE = ("--takeover-attempts", "0", "--retry-attempts", "1")
BODY = json.dumps(chat_body(max_tokens=1)).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-test\r\n"
REST = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def test_a_gateway_that_was_stopped_reads_what_came_meanwhile_before_it_judges_anybody() -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine(tokens=60, token_delay_s=0.02) as engine,
        gateway_process(engine.url, *SHORT, *ONCE) as (process, url),
        connect(url) as new,
        connect(url) as kept,
    ):
        await kept.request("POST", CHAT, chat_body(max_tokens=1), AUTH)
        assert (await kept.read_response("POST")).status == 200
        engine.script(Behaviour(), Behaviour(faults=[Fault("token", gate, after=0)]))
        asked = [asyncio.create_task(chat(url, stream=True)) for _ in range(2)]  # the second has a long prompt
        await engine.wait_for(lambda e: e.running == 2 and e.generated > 5)
        await new.send(HEAD)
        process.send_signal(signal.SIGSTOP)
        await new.send(REST)
        await kept.request("POST", CHAT, chat_body(max_tokens=1), AUTH)
        await asyncio.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        assert [(await one.read_response("POST")).status for one in (new, kept)] == [200, 200]
        (replica,) = (await fetch(url, "GET", "/health", **AUTH)).json()["replicas"]
        assert (replica["ready"], replica["breaker"]) == (True, "closed")
        gate.set()
        for answer in await asyncio.gather(*asked):
            assert token_numbers(text_of(answer.events)) == list(range(60))
