"""The same client for programs without asyncio: its event loop runs in a thread, which begins with the first call.

Any number of threads may call one client; their calls go out together.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from forebay.client.asynchronous import AsyncClient, Prompt, was_interrupted
from forebay.client.result import Result

T = TypeVar("T")


class Client:
    """Takes what `AsyncClient` takes. Use it as `with`, or call `close` at the end."""

    def __init__(self, url: str, **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client of {self._client!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._client.abort if was_interrupted(kind) else self._client.aclose)

    def generate(self, prompt: Prompt, **sampling: Any) -> Result:
        """Generate for one prompt, a text or token ids. Raises `GenerationError`."""
        return self._run(self._client.generate, prompt, **sampling)

    def map(self, prompts: Iterable[Prompt], **sampling: Any) -> list[Result]:
        """Generate for each prompt; results come in the prompts' order, each with its answer or its own error."""
        return self._run(self._client.map, prompts, **sampling)

    def close(self) -> None:
        """Take no more calls, wait for those under way of all threads, and end."""
        self._end(self._client.aclose)

    def _end(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        try:
            _wait_for(asyncio.run_coroutine_threadsafe(close(), loop))
        except BaseException:
            asyncio.run_coroutine_threadsafe(self._client.abort(), loop).result()
            raise
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()

    def _run(self, ask: Callable[..., Coroutine[Any, Any, T]], *args: Any, **sampling: Any) -> T:
        with self._lock:
            loop = self._running_loop()
            future = asyncio.run_coroutine_threadsafe(ask(*args, **sampling), loop)
        return _wait_for(future)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="forebay-client", daemon=True)
            thread.start()
            self._loop, self._thread = loop, thread
        return self._loop


def _wait_for(future: Future[T]) -> T:
    """Its result; who is interrupted (Ctrl-C) wants it no more."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
