"""A real Prometheus over the example configuration and the rules that are delivered, with other targets."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

from tests.gateway.raw_client import fetch
from tests.processes import free_port
from tests.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> Any:
        answer = await fetch(self.url, "GET", f"/api/v1/{path}")
        told = answer.json()
        assert told["status"] == "success", (path, told)
        return told["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        found: list[dict[str, Any]] = (await self.get(f"query?query={quote(expression, safe='')}"))["result"]
        return found

    async def firing(self) -> set[tuple[str, str]]:
        """The names of the alerts that fire, each with the instance that it is about."""
        alerts = (await self.get("alerts"))["alerts"]
        return {
            (one["labels"]["alertname"], one["labels"].get("instance", ""))
            for one in alerts
            if one["state"] == "firing"
        }

    async def until_firing(self, name: str, instance: str = "", within_s: float = 30) -> float:
        """Wait until an alert fires; return how long that took, seconds."""
        begun = monotonic()
        while (name, instance) not in (now := await self.firing()):
            assert monotonic() - begun < within_s, f"{name} of {instance or 'all'} does not fire: {sorted(now)}"
            await asyncio.sleep(0.2)
        return monotonic() - begun

    async def until_scraped(self, times: int) -> None:
        """Wait until every target has answered so many times."""
        asked = f"min(count_over_time(up[5m])) >= {times} and min(up) == 1"
        async with asyncio.timeout(60):
            while not await self.query(asked):
                await asyncio.sleep(0.2)


@asynccontextmanager
async def prometheus(
    directory: Path,
    targets: Mapping[str, str],
    key: str,
    labels: Mapping[str, str] | None = None,
    every: str | None = None,
) -> AsyncIterator[Prometheus]:
    """Scrape targets, by the names that they have as `instance`; the job of all is the gateways'. `labels` are more of
    theirs; `every` is another interval than the example's."""
    for name in ("alerts.yaml", "recording.yaml"):
        (directory / name).write_text((DEPLOY / name).read_text())
    (directory / "forebay.key").write_text(key)
    config = _config(targets, labels or {})
    (directory / "prometheus.yaml").write_text(config if every is None else config.replace(": 5s", f": {every}"))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--web.listen-address={address}", f"--storage.tsdb.path={directory / 'data'}")
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program("prometheus"), f"--config.file={directory / 'prometheus.yaml'}", *options), stdout=log, stderr=log
        )
    try:
        await _until_ready(address, process)
        yield Prometheus(f"http://{address}")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _config(targets: Mapping[str, str], labels: Mapping[str, str]) -> str:
    """The example, its intervals and rule files as they are, the gateways' job with these targets and no other job."""
    example = (DEPLOY / "prometheus.yaml").read_text()
    before, job, _ = re.split(r"(?m)^  - (?=job_name)|(?<=static_configs:\n)(?=      - targets)", example, maxsplit=2)
    hosts = [
        {"targets": [url.partition("//")[2]], "labels": {**labels, "instance": name}} for name, url in targets.items()
    ]
    return f"{before}  - {job}" + "".join(f"      - {json.dumps(host)}\n" for host in hosts)


async def _until_ready(address: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None, "Prometheus ended; its log says why"
            try:
                if (await fetch(f"http://{address}", "GET", "/-/ready")).status == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)
