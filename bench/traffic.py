"""Mixed traffic with faults, for `bench/soak.py`: callers of every kind, engines that fail them, and what both count.

Requests come at random (Poisson): chats and completions, whole and streamed, embeddings, repeated ones that the cache
answers, posts to conversations, bodies that are none, wrong keys. One in twenty is left by its caller within the
answer, one in twenty cut by its engine, and each engine in turn is gone for two seconds a minute.
"""

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import closing, suppress
from typing import Any

from tests.gateway.fake_engine import GENERATING, Behaviour, FakeEngine, Fault, Record

from forebay.upstream.questions import WARM_PROMPT

KEYS = [f"sk-{number}" for number in range(5)]
TOKENS, TOKEN_DELAY_S = 8, 0.02
LEFT, CUT = 0.05, 0.05
BETWEEN_S, GONE_S = 28.0, 2.0
WHERE = (("mid_event", "reset"), ("token", "close"), ("head", "reset"))
NO_BODIES = (b"{", b"[]", b'{"model":"fake-model"}', b"\xff")
NOT_RELAYED = ("201", "404", "409")  # of what is answered about conversations


class Traffic:
    """`loading` while it is set; `url` has to be known by then."""

    def __init__(self, rate: float) -> None:
        self.slots = round(rate / 0.7 * TOKENS * TOKEN_DELAY_S / 2)
        self.engines = [FakeEngine(slots=self.slots, token_delay_s=TOKEN_DELAY_S, tokens=TOKENS) for _ in range(2)]
        self.url = ""
        self.loading = asyncio.Event()
        self.sent = 0
        self.ends: Counter[str] = Counter()  # of what is relayed, by callers: statuses, or that they left
        self.finished = 0  # by engines
        self._rate = rate
        self._random = random.Random(7)
        self._conversations: list[str] = []
        self._asking: set[asyncio.Task[None]] = set()
        for engine in self.engines:
            engine.default = self._behaviour

    async def load(self) -> None:
        """Ask while `loading`, for ever."""
        due = time.monotonic()
        while True:
            if not self.loading.is_set():
                await self.loading.wait()
                due = time.monotonic()
            due += self._random.expovariate(self._rate)
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(self._ask())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def fall_silent(self) -> None:
        self.loading.clear()
        await asyncio.gather(*self._asking)

    async def trouble(self) -> None:
        """Have each engine in turn be gone, for ever."""
        while True:
            for engine in self.engines:
                await asyncio.sleep(BETWEEN_S)
                gone = self.loading.is_set()
                if gone:
                    await engine.stop()
                await asyncio.sleep(GONE_S)
                if gone:
                    await engine.start()

    def count(self) -> None:
        """Take what the engines have finished into the count, and forget it there."""
        for engine in self.engines:
            over = [one for one in engine.requests if one.outcome != "running"]
            ours = [one for one in over if one.path in GENERATING and one.body.get("prompt") != WARM_PROMPT]
            self.finished += sum(one.outcome == "finished" for one in ours)
            engine.requests[:] = [one for one in engine.requests if one.outcome == "running"]

    def _behaviour(self, record: Record) -> Behaviour:
        if self._random.random() >= CUT or record.body.get("prompt") == WARM_PROMPT:
            return Behaviour()
        where, how = self._random.choice(WHERE)
        fault: Any = Fault(where, how, after=0 if where == "head" or not record.body.get("stream") else 3)  # type: ignore[arg-type]
        return Behaviour(faults=[fault])

    async def _ask(self) -> None:
        path, body, key = self._request()
        try:
            end = await self._answer(path, body, key, leaves=self._random.random() < LEFT)
        except OSError as failure:
            end = type(failure).__name__
        self.sent += 1
        if end not in NOT_RELAYED:
            self.ends[end] += 1

    def _request(self) -> tuple[str, bytes, str]:
        draw, key = self._random.random(), self._random.choice(KEYS)
        words = f"soak {self._random.randrange(100_000)} tell me a story"
        chat: dict[str, Any] = {"model": "fake-model", "max_tokens": TOKENS, "stream": draw < 0.4}
        said = {"messages": [{"role": "user", "content": words}], "temperature": 1}
        if draw < 0.55:
            return "/v1/chat/completions", json.dumps(chat | said).encode(), key
        if draw < 0.7:
            return "/v1/completions", json.dumps({**chat, "stream": draw < 0.62, "prompt": words}).encode(), key
        if draw < 0.78:
            return "/v1/embeddings", json.dumps({"model": "fake-model", "input": words}).encode(), key
        if draw < 0.88:
            again = [{"role": "user", "content": f"soak {self._random.randrange(20)}"}]
            return "/v1/chat/completions", json.dumps({**chat, "temperature": 0, "messages": again}).encode(), key
        if draw < 0.93:
            return *self._conversation(), KEYS[0]
        if draw < 0.97:
            return "/v1/chat/completions", self._random.choice(NO_BODIES), key
        return "/v1/chat/completions", json.dumps(chat | said).encode(), "sk-wrong"

    def _conversation(self) -> tuple[str, bytes]:
        """A post to one of the newest conversations, or what makes another: each has ten posts or so."""
        if len(self._conversations) < 5 or self._random.random() < 0.1:
            return "/v1/conversations", b'{"model":"fake-model","ttl_s":60}'
        self._conversations = self._conversations[-5:]
        return f"/v1/conversations/{self._random.choice(self._conversations)}/messages", b'{"content":"soak"}'

    async def _answer(self, path: str, body: bytes, key: str, *, leaves: bool) -> str:
        """The status of one request on a connection of its own."""
        head = f"POST {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-type: application/json\r\n"
        head += f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            writer.write(head.encode() + body)
            if leaves and "conversations" not in path:
                await asyncio.sleep(self._random.random() * TOKENS * TOKEN_DELAY_S)
                return "left"
            answer = b""
            with suppress(ConnectionResetError):
                while data := await reader.read(65536):
                    answer += data
        status = answer[9:12].decode() or "nothing"
        if status == "201":
            self._conversations.append(json.loads(answer.partition(b"\r\n\r\n")[2])["id"])
        return status
