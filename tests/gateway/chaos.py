"""Disorder from one seed: what befalls the engines, what callers ask and do, and what each must have got in the end.

Every choice comes from the seed; what happens at the same time as what does not, sockets being real.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from forebay.replicas.discovery.source import Endpoint, Endpoints, Outage
from forebay.upstream.pool import Address
from tests.gateway.calls import AUTH, CHAT, error_of
from tests.gateway.fake_engine import Behaviour, FakeEngine, Fault, How, Record, Where, tag_of
from tests.gateway.raw_client import RawConnection, Response, connect

COMPLETIONS = "/v1/completions"
TOKEN_S = 0.025
WAIT_S = 60.0  # no caller waits longer for the next byte

GARBAGE = (
    Behaviour(body="<html>Service temporarily broken</html>"),
    Behaviour(body=b'{"choices": [', content_type="application/json"),
    Behaviour(raw=b"\x00\x01\x02 this is not HTTP\r\n\r\n"),
    Behaviour(raw=b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"),
)
DEAD_CORE = b'data: {"error":{"message":"EngineCore encountered an issue.","type":"InternalServerError"}}\n\n'


class ChangingSource:
    """A source of replicas that names the engines it is told to."""

    name = "changing"

    def __init__(self) -> None:
        self.outage = Outage(self.name)
        self._changed = asyncio.Event()
        self._engines: set[FakeEngine] = set()

    def now(self, engines: set[FakeEngine]) -> None:
        self._engines = set(engines)
        self._changed.set()

    async def observe(self) -> AsyncIterator[Endpoints]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield frozenset(Endpoint.at(Address.parse(engine.url)) for engine in self._engines)


def cut(random: Random, tokens: int) -> Behaviour:
    """An answer that breaks somewhere, somehow."""
    after = random.randrange(tokens)
    match random.randrange(5):
        case 0:
            return Behaviour(tokens=after, finish_reason="abort")
        case 1:
            return Behaviour(insert={after: DEAD_CORE})
        case 2:
            return Behaviour(faults=[Fault("token", "finish", after=after)])
        case _:
            where: Where = random.choice(("head", "mid_head", "token", "mid_event", "mid_chunk", "end"))
            how: How = random.choice(("close", "reset"))
            return Behaviour(faults=[Fault(where, how, after=0 if where in ("head", "mid_head", "end") else after)])


class Misfortune:
    """What befalls one engine, again and again; it is well for a while in between."""

    def __init__(self, engine: FakeEngine, random: Random, source: ChangingSource, pool: set[FakeEngine]) -> None:
        self.engine, self.random, self.source, self.pool = engine, random, source, pool
        self.gone: Callable[[str], bool] = lambda url: True  # whether the gateway has let go of a replica
        self.befell: Counter[str] = Counter()
        self.going = True

    async def run(self) -> None:
        kinds = (self.killed, self.hung, self.slow, self.failing, self.garbage, self.cutting, self.replaced)
        while self.going:
            await asyncio.sleep(self.random.uniform(0.5, 2.5))
            kind = self.random.choice(kinds)
            self.befell[kind.__name__] += 1
            await kind(self.random.uniform(0.3, 1.5))

    async def killed(self, for_s: float) -> None:
        await self.engine.stop()
        await asyncio.sleep(for_s)
        await self.engine.start()

    async def hung(self, for_s: float) -> None:
        self.engine.moving.clear()
        await asyncio.sleep(3 * for_s)
        self.engine.moving.set()

    async def slow(self, for_s: float) -> None:
        self.engine.token_delay_s = 10 * TOKEN_S
        await asyncio.sleep(for_s)
        self.engine.token_delay_s = TOKEN_S

    async def failing(self, for_s: float) -> None:
        status = self.random.choice((500, 502, 503))
        await self._answering(lambda record: Behaviour(status=status), for_s)

    async def garbage(self, for_s: float) -> None:
        await self._answering(lambda record: self.random.choice(GARBAGE), for_s)

    async def cutting(self, for_s: float) -> None:
        """Every other answer breaks."""
        await self._answering(
            lambda record: cut(self.random, record.body["max_tokens"]) if self.random.random() < 0.5 else Behaviour(),
            for_s,
        )

    async def replaced(self, for_s: float) -> None:
        """It leaves, finishes what it has, and another one comes at another address."""
        self.pool.discard(self.engine)
        self.source.now(self.pool)
        old = self.engine.url
        async with asyncio.timeout(WAIT_S):
            while not self.gone(old):
                await asyncio.sleep(0.01)
        await self.engine.stop()
        self.engine.port = 0
        await asyncio.sleep(for_s / 4)
        await self.engine.start()
        self.pool.add(self.engine)
        self.source.now(self.pool)

    async def _answering(self, behaviour: Callable[[Record], Behaviour], for_s: float) -> None:
        self.engine.default = behaviour
        await asyncio.sleep(for_s)
        self.engine.default = Behaviour()


@dataclass(frozen=True)
class Call:
    """One request, as the seed has it."""

    path: str
    stream: bool
    tokens: int
    usage: bool
    resumable: bool
    manner: str  # patient · leaves · slow
    leaves_after: int
    prompt: str

    @classmethod
    def drawn(cls, seed: int, number: int) -> "Call":
        random = Random(f"{seed}/{number}")
        return cls(
            path=random.choice((CHAT, COMPLETIONS)),
            stream=random.random() < 0.5,
            tokens=random.randint(1, 12),
            usage=random.random() < 0.5,
            resumable=random.random() < 0.95,
            manner=random.choices(("patient", "leaves", "slow"), (92, 5, 3))[0],
            leaves_after=random.randrange(6),
            prompt=f"request number {number} of {seed}, please",
        )

    @property
    def asked(self) -> Any:
        return [{"role": "user", "content": self.prompt}] if self.path == CHAT else self.prompt

    @property
    def body(self) -> dict[str, Any]:
        what = {"model": "fake-model", "max_tokens": self.tokens, "stream": self.stream}
        what["messages" if self.path == CHAT else "prompt"] = self.asked
        if self.stream and self.usage:
            what["stream_options"] = {"include_usage": True}
        if not self.resumable:
            what["logprobs"] = True if self.path == CHAT else 1
        return what

    @property
    def answer(self) -> str:
        """The only right text."""
        return "".join(f" {tag_of(self.asked)}.{number}" for number in range(self.tokens))

    @property
    def counts(self) -> dict[str, int]:
        prompt = len(self.prompt.split())
        return {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": prompt + self.tokens}

    async def make(self, raw: RawConnection) -> str:
        """Ask over this connection and judge what comes; `left` where the caller did not wait for it."""
        await raw.request("POST", self.path, self.body, AUTH)
        if self.manner == "leaves":
            await self._leave(raw)
            return "left"
        answer = await raw.read_head("POST")
        async for _ in raw.blocks(answer):
            if self.manner == "slow":
                await asyncio.sleep(0.01)
        return self.judge(answer)

    async def _leave(self, raw: RawConnection) -> None:
        seen = 0
        if self.leaves_after:
            answer = await raw.read_head("POST")
            async for _ in raw.blocks(answer):
                seen += 1
                if seen >= self.leaves_after:
                    break
        (raw.reset if self.leaves_after % 2 else raw.close)()

    def judge(self, answer: Response) -> str:
        """How it ended. Raises AssertionError for what must not be."""
        assert answer.ended == "complete", (self, answer)
        if answer.status != 200:
            return self._judge_refusal(answer)
        if not self.stream:
            self._judge_whole(answer.json())
            return "answered"
        assert answer.events[-1].data == "[DONE]", (self, answer)
        told = [event.data for event in answer.events[:-1] if event.data is not None]
        assert "[DONE]" not in told, (self, answer)
        chunks = [json.loads(data) for data in told]
        if "error" in chunks[-1]:
            self._judge_beginning(chunks[:-1])
            return f"broken:{'resumable' if self.resumable else 'unresumable'}:{chunks[-1]['error']['code']}"
        self._judge_stream(chunks)
        return "answered"

    def _judge_refusal(self, answer: Response) -> str:
        code = error_of(answer)["code"]
        if answer.status == 503:
            assert 1 <= int(answer.header("retry-after") or 0) <= 60, (self, answer)
        return f"refused:{answer.status}:{code}"

    def _judge_whole(self, answer: Any) -> None:
        (choice,) = answer["choices"]
        text = choice["message"]["content"] if self.path == CHAT else choice["text"]
        usage = {name: answer["usage"][name] for name in self.counts}
        assert (text, choice["finish_reason"], usage) == (self.answer, "length", self.counts), (self, answer)

    def _judge_stream(self, chunks: list[Any]) -> None:
        assert self._judge_beginning(chunks) == self.answer, (self, chunks)
        ends = [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
        assert ends == ["length"], (self, chunks)
        usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
        assert usages == ([self.counts] if self.usage else []), (self, chunks)

    def _judge_beginning(self, chunks: list[Any]) -> str:
        """One answer's beginning, of one id and with one role; returns its text, which must be the right one's."""
        assert len({chunk["id"] for chunk in chunks}) == 1, (self, chunks)
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        roles = [choice for choice in choices if choice.get("delta", {}).get("role")]
        assert len(roles) == (self.path == CHAT), (self, chunks)
        text = "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)
        assert self.answer.startswith(text), (self, chunks)
        return text


async def call_all(url: str, calls: list[Call], concurrency: int) -> Counter[str]:
    """Make all calls, so many at once, each caller over a connection that is kept while it can be."""
    ended: Counter[str] = Counter()
    left = iter(calls)

    async def caller() -> None:
        while (call := next(left, None)) is not None:
            async with connect(url, timeout_s=WAIT_S) as raw:
                while call is not None:
                    ended[await call.make(raw)] += 1
                    call = next(left, None) if call.manner != "leaves" else None

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    return ended
