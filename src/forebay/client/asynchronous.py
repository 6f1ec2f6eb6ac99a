"""The client for asyncio: calls in, requests out, results back to their calls.

Each call is a future. The `Batcher` says which calls go when, at the end of the event loop's turn, so that calls made
in one turn find each other; each batch is a task of its own. A call that is cancelled leaves its batch, and only when
all the calls of a request have left is the request given up, so that the engine stops generating.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from random import random
from types import TracebackType
from typing import Any, Self

from forebay.client.asking import ask
from forebay.client.batching import Batch, Batcher, Lane
from forebay.client.completions import (
    MODELS_PATH,
    PATH,
    Answer,
    encode_prompt,
    lane_of,
    read_only_model,
    read_results,
    request_body,
    request_head,
)
from forebay.client.result import GenerationError, Result
from forebay.client.retrying import is_of_one_prompt, is_too_much, wait_s
from forebay.upstream.pool import Address, UpstreamPool

CONNECT_TIMEOUT_S = 10.0
IDLE_S = 30.0

Prompt = str | Sequence[int]


@dataclass(eq=False, slots=True)
class _Call:
    """One prompt on its way; `batch` is the last that it went out with."""

    lane: Lane
    prompt: bytes
    future: asyncio.Future[Result]
    tries: int = 0
    batch: "Batch[_Call] | None" = None


class AsyncClient:
    """See the module's text; all of one event loop. Use it as `async with`, or call `aclose` at the end.

    `max_batch_size` prompts go in one request at most, and `max_concurrency` requests at once; a call waits at most
    `max_wait_s` for others. `timeout_s` is for the answer to one request; around it, `asyncio.timeout` bounds a call
    with all its waits. A prompt is asked for again `max_retries` times at most. Where neither `model` here nor a call
    names a model, it is the only one that the server has.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        max_batch_size: int = 64,
        max_wait_s: float = 0.01,
        max_concurrency: int = 8,
        timeout_s: float = 600.0,
        max_retries: int = 6,
    ) -> None:
        if max_batch_size < 1 or max_concurrency < 1 or max_wait_s < 0 or timeout_s <= 0 or max_retries < 0:
            raise ValueError(
                "max_batch_size and max_concurrency are 1 at least, timeout_s is above 0, the others 0 or more"
            )
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("api_key has characters that no key has")
        self.model = model
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._api_key = api_key
        self._only_model = ""  # of a server that has one; asked for where no model is named
        self._batcher: Batcher[_Call] = Batcher(max_batch_size, max_wait_s, max_concurrency)
        self._pool = UpstreamPool(
            Address.parse(url), connect_timeout_s=CONNECT_TIMEOUT_S, idle_s=IDLE_S, max_connections=max_concurrency
        )
        self._open: set[asyncio.Future[Result]] = set()
        self._requests: dict[Batch[_Call], asyncio.Task[list[Result]]] = {}
        self._wake: asyncio.Handle | None = None
        self._soon = self._closed = self._ended = False

    def __repr__(self) -> str:
        return f"<AsyncClient {self._pool.address} open={len(self._open)} {self._batcher}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await (self.abort() if was_interrupted(kind) else self.aclose())

    async def generate(self, prompt: Prompt, **sampling: Any) -> Result:
        """Generate for one prompt, a text or token ids. Raises `GenerationError`."""
        (future,) = self._submit([prompt], sampling)
        return await future

    async def map(self, prompts: Iterable[Prompt], **sampling: Any) -> list[Result]:
        """Generate for each prompt; results come in the prompts' order, each with its answer or its own error."""
        if isinstance(prompts, str):
            raise TypeError("map takes a list of prompts; generate takes one")
        found = await asyncio.gather(*self._submit(prompts, sampling), return_exceptions=True)
        return [_as_result(one) for one in found]

    async def aclose(self) -> None:
        """Take no more calls, wait for those under way, and close the connections. Cancelled, it gives those up."""
        self._closed = self._batcher.hurry = True
        try:
            self._pump()
            while self._open:
                await asyncio.wait(self._open)
        finally:
            await self._end()

    async def abort(self) -> None:
        """Take no more calls, give up those under way, and close the connections."""
        self._closed = True
        await self._end()

    def _submit(self, prompts: Iterable[Prompt], sampling: dict[str, Any]) -> list[asyncio.Future[Result]]:
        """Let the prompts wait for their turn: all of them, or none where one or a parameter is no JSON."""
        if self._closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        encoded = [encode_prompt(prompt) for prompt in prompts]
        calls = [_Call(lane_of(self.model, one, sampling), one, loop.create_future()) for one in encoded]
        for call in calls:
            self._open.add(call.future)
            call.future.add_done_callback(partial(self._done, call))
            self._batcher.add(call.lane, call, loop.time())
        self._pump_soon()
        return [call.future for call in calls]

    def _done(self, call: _Call, future: asyncio.Future[Result]) -> None:
        """A call whose caller left leaves the line, or its batch; the last one takes the request with it."""
        self._open.discard(future)
        if not future.cancelled():
            return
        self._batcher.remove(call.lane, call)
        batch = call.batch
        if batch is not None and batch in self._requests and all(one.future.done() for one in batch.calls):
            self._requests[batch].cancel()

    def _pump_soon(self) -> None:
        """Look for what is due at the end of this turn, when all that is to be called in it has been."""
        if not self._soon and not self._ended:
            self._wake_with(asyncio.get_running_loop().call_soon(self._pump))
            self._soon = True

    def _wake_with(self, handle: asyncio.Handle | None) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = handle

    def _pump(self) -> None:
        """Send what is due, and see when to look again."""
        self._soon = False
        loop = asyncio.get_running_loop()
        for batch in self._batcher.due(loop.time()):
            for call in batch.calls:
                call.batch = batch
                call.tries += 1
            task = self._requests[batch] = loop.create_task(self._ask(batch))
            task.add_done_callback(partial(self._finished, batch))
        at = self._batcher.next_at(loop.time())
        self._wake_with(None if at is None else loop.call_at(at, self._pump))

    async def _ask(self, batch: Batch[_Call]) -> list[Result]:
        model = batch.lane.model or self._only_model
        if not model:
            answer = await self._send("GET", MODELS_PATH)
            model = self._only_model = read_only_model(answer, time.time())
        answer = await self._send("POST", PATH, request_body(model, batch.lane, [call.prompt for call in batch.calls]))
        return read_results(answer, len(batch.calls), time.time())

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Answer:
        address = self._pool.address
        line = f"{method} {address.prefix}{path}"
        head = request_head(line, address.authority, self._api_key, self.timeout_s, body)
        return await ask(self._pool, head + (body or b""), self.timeout_s)

    def _finished(self, batch: Batch[_Call], task: asyncio.Task[list[Result]]) -> None:
        """Every request ends here once, whatever happened, before it began even."""
        del self._requests[batch]
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._answered(batch, task.result())
        elif isinstance(error, GenerationError):
            self._refused(batch, error)
        else:
            self._batcher.dropped(batch)
            _fail(batch.calls, error)
        self._pump_soon()

    def _answered(self, batch: Batch[_Call], results: list[Result]) -> None:
        counts = [result.tokens for result in results if result.tokens is not None]
        self._batcher.answered(batch, sum(counts), asyncio.get_running_loop().time())
        for call, result in zip(batch.calls, results, strict=True):
            if not call.future.done():
                call.future.set_result(result)

    def _refused(self, batch: Batch[_Call], error: GenerationError) -> None:
        """There are three cases: one prompt may be to blame; it is worth another try; the error is the result."""
        now = asyncio.get_running_loop().time()
        if error.status == 404:
            self._only_model = ""  # it may have another by now
        calls = [call for call in batch.calls if not call.future.done()]
        if len(batch.calls) > 1 and is_of_one_prompt(error):
            for call in calls:
                call.tries -= 1
            self._batcher.split(batch, calls)
            return
        wait = wait_s(error, max(call.tries for call in batch.calls), random())  # noqa: S311
        again = [call for call in calls if wait is not None and call.tries <= self.max_retries]
        self._batcher.again(batch, again, now + (wait or 0.0), now, too_much=is_too_much(error))
        _fail([call for call in calls if call not in again], error)

    async def _end(self) -> None:
        """Leave nothing behind: no task, no timer, no connection, nobody waiting."""
        self._ended = True
        self._wake_with(None)
        for future in [one for one in self._open if not one.done()]:
            future.set_exception(GenerationError("The client was closed.", code="closed"))
        for task in self._requests.values():
            task.cancel()
        await asyncio.gather(*self._requests.values(), return_exceptions=True)
        self._pool.close()
        await asyncio.sleep(0)  # transports close in the loop's next turn


def was_interrupted(kind: type[BaseException] | None) -> bool:
    """Whether a `with` was left by Ctrl-C or a cancellation: nobody is there who wants the answers."""
    return kind is not None and not issubclass(kind, Exception)


def _fail(calls: Iterable[_Call], error: BaseException) -> None:
    """Each call gets an error of its own: a raised one collects the way it went."""
    for call in calls:
        if not call.future.done():
            call.future.set_exception(copy(error))


def _as_result(found: Result | BaseException) -> Result:
    if isinstance(found, GenerationError):
        return Result(error=found)
    if isinstance(found, BaseException):
        raise found
    return found
