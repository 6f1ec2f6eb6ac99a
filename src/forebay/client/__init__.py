"""A client for many small prompts: calls go out together, each with its own parameters, and each gets its own result.

    async with AsyncClient("http://127.0.0.1:8000", api_key="sk-…") as client:
        result = await client.generate("Once upon a time", max_tokens=32, temperature=0.7)
        results = await client.map(prompts, max_tokens=8)

Read in this order: `pace.py` (how much at once), `batching.py` (which calls go when), `completions.py` (what goes over
the wire), `retrying.py` (once more?), `asking.py` (one request), `asynchronous.py` (all of it together), and
`synchronous.py`. Nothing here knows the gateway's inside; of Forebay it uses the connections alone, `forebay.upstream`.
"""

from forebay.client.asynchronous import AsyncClient
from forebay.client.result import GenerationError, Result, Usage
from forebay.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "GenerationError", "Result", "Usage"]
