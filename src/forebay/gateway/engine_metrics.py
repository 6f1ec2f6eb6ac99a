"""The engines' own metrics on one page: every replica is asked at once, and one that does not answer is left out.

So a replica that hangs costs the time limit, and nobody else's figures. Whoever asks while the page is being made gets
the same one: a caller cannot have the engines asked more often than that.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from forebay.failures import Failure
from forebay.replicas.replica import Replica
from forebay.upstream.questions import read_metrics
from forebay.wire.exposition import Page, TooLarge

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

log = logging.getLogger("forebay.replicas")

PREFIX = "vllm:"
LABEL = "replica"
MOST_S = 5.0  # Prometheus itself waits for 10
MOST_BYTES = 32 * 1024 * 1024


class EngineMetrics:
    """Makes the page of one gateway's replicas."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._making: asyncio.Task[str] | None = None

    def __repr__(self) -> str:
        return f"<EngineMetrics {'being read' if self._making is not None else 'idle'}>"

    async def text(self) -> str:
        """The page, in Prometheus's text format."""
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make())
            self._making.add_done_callback(self._made)
        return await asyncio.shield(self._making)  # one that leaves must not take it from the others

    def _made(self, _: asyncio.Task[str]) -> None:
        self._making = None

    async def _make(self) -> str:
        page = Page(PREFIX, LABEL, MOST_BYTES)
        await asyncio.gather(*(self._read(replica, page) for replica in list(self._gateway.replicas)))
        return page.text()

    async def _read(self, replica: Replica, page: Page) -> None:
        timeout_s = min(self._gateway.settings.health_timeout_s, MOST_S)
        try:
            told = await read_metrics(replica.upstream, timeout_s, replica.api_key)
            page.add(told.decode("utf-8"), replica.name)
        except (Failure, UnicodeDecodeError, TooLarge) as why:
            replica.metrics_failures += 1
            log.debug("metrics unread", extra={"replica": replica.name, "why": str(why) or "the page is full"})
