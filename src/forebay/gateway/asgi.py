"""A request for the FastAPI application, as uvicorn's own protocol would have made it."""

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from forebay.gateway.server import ClientConnection


def make_cycle(
    connection: "ClientConnection",
    method: bytes,
    version: str,
    fields: list[tuple[bytes, bytes]],
    *,
    address: str,
    keep_alive: bool,
) -> RequestResponseCycle:
    """uvicorn's request and response cycle for the request whose head has just been read."""
    raw_path, _, query = connection.url.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": version,
        "method": method.decode("ascii"),
        "server": connection.server,
        "client": (address, connection.client[1]) if connection.client is not None else None,
        "scheme": connection.scheme,
        "root_path": "",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": fields,
        "state": connection.app_state.copy(),
    }
    return RequestResponseCycle(
        scope=scope,  # type: ignore[arg-type]
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=connection.gateway.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=any(name == b"expect" for name, _ in fields),
        keep_alive=keep_alive,
        on_response=connection.on_response_complete,
    )
