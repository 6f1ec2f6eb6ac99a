"""C5, C4: bodies and framing that nobody should send. Never a 500, never 50 ms of event loop, never out of step."""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from forebay.telemetry.logging import LogWriter
from forebay.wire.body import _ENGINE_ONLY
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import MONITORING, FakeEngine
from tests.gateway.framing_cases import _NASTY, CASES, read_with_h11, read_with_httptools
from tests.gateway.raw_client import connect
from tests.robustness.bodies import bodies
from tests.robustness.in_process import InProcess

PATHS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/v1/embeddings",
    b"/v1/responses",
    b"/v1/messages",
    b"/tokenize",
)
HELD_UP_S = 0.05
ODD = (b'"error":{"message":"a"},', b'"usage":{"prompt_tokens":-1},', b'"choices":null,', b"\n\n", b"\r\n\r\n", b"\xff")
ODD += (
    b'data: {"error":"a"}\n\n',
    b": ping\n\n",
    b"data: [DONE]\n\n",
    b'"finish_reason":"abort",',
    b"HTTP/1.1 100 \r\n\r\n",
)


@pytest.fixture
async def in_process() -> AsyncIterator[InProcess]:
    with Path(os.devnull).open("wb") as nowhere:
        writer = LogWriter(nowhere.fileno(), text=False)
        writer.start()
        asks_once = {"takeover_attempts": 0, "retry_attempts": 1, "breaker_failures": 1000, "breaker_ratio": 1.0}
        yield InProcess(writer, **asks_once)
        writer.stop()


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        (0, 2000),
        *(
            pytest.param(seed, 10_000, marks=[pytest.mark.robustness, pytest.mark.timeout(600)])
            for seed in range(1, 11)
        ),
    ],
)
async def test_no_body_breaks_anything(seed: int, count: int, in_process: InProcess) -> None:
    statuses: Counter[int] = Counter()
    for number, body in enumerate(bodies(seed, count)):
        path = PATHS[number % len(PATHS)]
        before, in_process.worst_s = len(in_process.seen), 0.0
        status, answer = await in_process.ask(path, body)
        statuses[status] += 1
        assert status in (200, 400, 404), (path, body[:2000], answer)
        assert in_process.worst_s < HELD_UP_S, (in_process.worst_s, path, body[:2000])
        assert len(in_process.seen) - before == (status == 200), (path, body[:2000], answer)
        if status == 200:
            assert_clean(in_process.seen.pop())
        else:
            assert len(answer) < 4096, (path, body[:2000])
            assert set(json.loads(answer)) >= {"error"}
    assert min(statuses[200], statuses[400]) > count / 10, "too tame, or too wild to get anywhere"


@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 1000), *(pytest.param(seed, 10_000, marks=pytest.mark.robustness) for seed in range(1, 4))],
)
async def test_no_answer_of_an_engine_breaks_anything(seed: int, count: int, in_process: InProcess) -> None:
    """B7: whatever an engine sends, the caller has one whole answer: the engine's, or an error that says so."""
    random, statuses = Random(seed), Counter[int]()
    in_process.gateway.recorder.bug = pytest.fail  # type: ignore[method-assign, assignment]
    for number in range(count):
        body = {"model": "m", "messages": [], "prompt": "a", "input": "a", "max_tokens": 1, "stream": number % 2 == 0}
        path = PATHS[random.randrange(len(PATHS))]
        in_process.worst_s = 0.0
        status, answer = await in_process.ask(path, json.dumps(body).encode(), lambda right: pieces(random, right))
        statuses[status] += 1
        assert status in (200, 400, 401, 404, 422, 502, 503, 504), (path, answer)
        assert in_process.worst_s < HELD_UP_S
        answer.decode()
    assert min(statuses[200], statuses[502]) > count / 20, statuses


def pieces(random: Random, right: bytes) -> list[bytes]:
    """A right answer, damaged and cut anywhere."""
    raw = right
    for _ in range(random.randrange(4)):
        at = random.randrange(len(raw) + 1)
        put = random.choice((*ODD, random.choice(_NASTY), random.randbytes(2), raw[at : at + 20] * 2))
        raw = raw[:at] + put + raw[at + random.randrange(3) :]
    if random.random() < 0.5:  # so that what was put in does not just end the message early
        head, _, rest = raw.partition(b"\r\n\r\n")
        raw = re.sub(rb"content-length: \d+", b"content-length: %d" % len(rest), head) + b"\r\n\r\n" + rest
    cuts = sorted(random.randrange(len(raw) + 1) for _ in range(random.randrange(4)))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def assert_clean(sent: bytes) -> None:
    """What reaches an engine can be read in one way at the top, and steers nothing."""
    members = json.loads(sent.decode(), object_pairs_hook=list, parse_int=float)
    names = [name for name, _ in members]
    assert len(set(names)) == len(names), sent
    fields: dict[str, Any] = json.loads(sent, parse_int=float)  # of any length
    assert not set(_ENGINE_ONLY) & set(fields), sent
    assert fields.get("model", "m") in ("m", None), sent
    assert (fields.get("n") or 1) <= 8, sent
    assert b"10.0.0.1" not in json.dumps(fields.get("messages")).encode(), sent


@pytest.mark.parametrize(
    ("seed", "count"),
    [
        (0, 150),
        *(pytest.param(seed, 2500, marks=[pytest.mark.robustness, pytest.mark.timeout(600)]) for seed in (1, 2)),
    ],
)
async def test_no_framing_breaks_anything(seed: int, count: int, start_gateway: StartGateway) -> None:
    """Over sockets, in pieces. What reaches the engine is what both reference parsers read, in this order."""
    random = Random(seed)
    corpus = [case.raw for case in CASES if len(case.raw) < 4096]
    async with FakeEngine() as engine, start_gateway(engine.url, keepalive_timeout_s=0.2) as running:
        for _ in range(count):
            raw = damaged(random, random.choice(corpus) + random.choice(corpus) * random.randrange(2))
            engine.requests.clear()
            answers = await told(running.url, raw, random)
            seen = [record.raw_body for record in engine.requests if record.path not in MONITORING]
            assert b"HTTP/1.1 500" not in answers, raw
            for reading in (read_with_h11(raw, 1 << 20), read_with_httptools(raw)):
                posts = [one.body for one in reading.requests if one.method == "POST"]
                assert all(body in posts for body in seen) or reading.error or reading.closed, (raw, seen)
            assert engine.violations == [], raw


async def told(url: str, raw: bytes, random: Random) -> bytes:
    """All that comes back until the connection is over; it never stays open without a reason."""
    cut = random.randrange(len(raw) + 1)
    async with connect(url) as client:
        try:
            for piece in (raw[:cut], raw[cut:]):
                await client.send(piece)
                await asyncio.sleep(0)
            client.half_close()
        except ConnectionError:  # refused at its first piece
            pass
        answers, _ = await client.read_until_end()
    return answers


def damaged(random: Random, raw: bytes) -> bytes:
    for _ in range(random.randrange(4)):
        start = random.randrange(len(raw) + 1)
        end = min(start + random.randrange(9), len(raw))
        put = random.choice((random.choice(_NASTY), random.randbytes(random.randrange(4)), raw[start:end] * 2))
        raw = raw[:start] + put + raw[end:]
    return raw
