"""What the server understands of hostile framing: never more than the right reading, never a request out of step."""

import re
from dataclasses import replace

import pytest

from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import MONITORING, FakeEngine
from tests.gateway.framing_cases import CASES, Asked, Case
from tests.gateway.raw_client import exchange

# Read as the corpus says, but never sent to an engine as it stands: an empty body is refused as JSON, a query is
# dropped, and RTSP/1.0 is taken for HTTP/1.0 (llhttp does not tell), answered and closed.
ANSWERED_HERE = {"post-empty", "query", "version-rtsp"}
# Answered and closed where the connection is still understood; where it is not, never read.
LAST_REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_case_is_read_as_it_should_be_or_refused(case: Case, start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url) as running:
        cut = case.verdict == "cut"
        answers, _ = await exchange(running.url, case.raw + (b"" if cut else LAST_REQUEST), half_close=cut)
        understood = [Asked(r.method, r.target, r.raw_body) for r in engine.requests if r.target not in MONITORING]
        if case.name in ANSWERED_HERE:
            return
        case = replace(case, requests=tuple(asked for asked in case.requests if asked.method == "POST"))
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answers) if status != b"100"]
        assert case.allows(understood, any(s >= 400 for s in statuses)), (understood, answers)
        assert engine.violations == []
