"""The page for people, `/ui`: static files without a build step, and the figures that its charts are made of.

The files hold no data, so they need no key; what the page shows it asks for with the key that somebody types in. They
are read once and found by their names in a table: no path of the file system is ever made of a request's.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from forebay.gateway.live import live_of
from forebay.refusals import NotFound

if TYPE_CHECKING:
    from forebay.gateway.build import Gateway

FILES = Path(__file__).parents[1] / "page"
INDEX = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Nothing from elsewhere, nothing inline, and no way to make markup of a text.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, and asked for again each time: an upgrade shows at once
}
router = APIRouter(include_in_schema=False)
live_router = APIRouter(prefix="/admin/v1", tags=["admin"])


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str


@cache
def files() -> dict[str, File]:
    """All of the page's files by their names."""
    found = (path for path in FILES.iterdir() if path.suffix in TYPES)
    return {path.name: _read(path) for path in found}


@router.get("/ui", summary="The page for people")
async def page(request: Request) -> Response:
    """The page: live charts, tables, and a playground. It asks for a key, and for what it shows with that key."""
    return _send(request, INDEX)


@router.get("/ui/{name}", summary="A file of the page")
async def page_file(request: Request, name: str) -> Response:
    """Its styles, scripts and icon."""
    return _send(request, name)


@live_router.get("/live", summary="Figures of this moment, for charts")
async def live(request: Request) -> dict[str, Any]:
    """Counters, gauges and histograms, replicas, engines and GPUs as they stand now. Ask twice to see a rate."""
    gateway: Gateway = request.app.state.gateway
    return live_of(gateway)


def _send(request: Request, name: str) -> Response:
    file = files().get(name)
    if file is None:
        raise NotFound("There is no such path here.")
    headers = {**HEADERS, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')
