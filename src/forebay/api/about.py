"""What this service is, open to all: its version and its endpoints, nothing of the inside and none of administrators'.

The page `/docs` is plain HTML made from the OpenAPI description. It loads nothing from anywhere, so that it opens where
there is no internet, and no other site learns who reads it.
"""

import json
from collections.abc import Collection, Iterable
from functools import cached_property
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from forebay import __version__
from forebay.gateway.routes import ROUTES, Route

_BASE = "http://gateway"
_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-cache"}
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{border:1px solid #8884;padding:.25rem .5rem;text-align:left;
vertical-align:top}code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#8881;padding:.5rem;overflow:auto}
:root{color-scheme:light dark}"""
_INTRODUCTION = (
    "Send a key as <code>Authorization: Bearer …</code> or <code>x-api-key</code>. The same as "
    "<a href=openapi.json>OpenAPI</a>."
)
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                **{name: {"type": "string"} for name in ("message", "type", "code")},
                "param": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "code"],
        }
    },
    "required": ["error"],
}
_WRONG = {
    "description": "What is wrong, as OpenAI says it.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_OPEN = {"about", "health"}
_EXAMPLE = """curl http://gateway/generate -H 'Authorization: Bearer YOUR_KEY' -H 'Content-Type: application/json' \\
  -d '{"prompt": "The capital of France is", "max_tokens": 16, "preset": "deterministic"}'"""
router = APIRouter(tags=["about"])


@router.get("/version", summary="Forebay's version")
async def version() -> dict[str, str]:
    """The version of Forebay; that of an engine is for administrators."""
    return {"version": __version__}


@router.get("/openapi.json", summary="This description, as OpenAPI has it")
async def openapi(request: Request) -> dict[str, Any]:
    """The endpoints that the gateway answers itself, with what they take and give; administrators' are left out."""
    about: About = request.app.state.about
    return about.schema


@router.get("/docs", summary="This description, to read", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """All endpoints for callers, on one page that loads nothing else."""
    about: About = request.app.state.about
    base = escape(str(request.base_url).rstrip("/"))
    return HTMLResponse(about.page.replace(_BASE, base, 1), headers=_HEADERS)


class About:
    """What callers may know of the endpoints: as OpenAPI has it, and as a page. Made when it is first asked for."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._routes = [route for router in routers for route in router.routes]

    @cached_property
    def schema(self) -> dict[str, Any]:
        found = get_openapi(title="Forebay", version=__version__, routes=self._routes)
        for path in found["paths"].values():
            for endpoint in path.values():
                endpoint["responses"].pop("422", None)  # FastAPI's own; here it is 400, and has OpenAI's form
                endpoint["responses"]["default"] = _WRONG
                if _OPEN & set(endpoint["tags"]):
                    endpoint["security"] = []
        parts = found["components"]
        for name in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(name, None)
        parts["schemas"]["Error"] = _ERROR
        parts["securitySchemes"] = _KEYS
        return {**found, "security": [{name: []} for name in _KEYS]}

    @cached_property
    def page(self) -> str:
        paths = self.schema["paths"].items()
        own = [_endpoint(self.schema, method, path, one) for path, methods in paths for method, one in methods.items()]
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Forebay</title><style>{_STYLE}</style>"
            f"<h1>Forebay {__version__}</h1><p>{_INTRODUCTION}</p><pre>{escape(_EXAMPLE)}</pre>"
            "<h2>As OpenAI, Anthropic and vLLM have them</h2>"
            f"<table><tr><th>method<th>path<th>dialect</tr>{''.join(map(_relayed, ROUTES))}</table>"
            f"<h2>Forebay's own</h2>{''.join(own)}</html>"
        )


def _relayed(route: Route) -> str:
    method, path, dialect = route.method.decode(), route.path.decode(), route.dialect.value
    return f"<tr><td>{method}</td><td><code>{escape(path)}</code></td><td>{dialect}</td></tr>"


def _endpoint(schema: dict[str, Any], method: str, path: str, told: dict[str, Any]) -> str:
    takes = _object(schema, told.get("requestBody", {}))
    gives = _object(schema, next(one for status, one in told["responses"].items() if status.startswith("2")))
    meaning = told.get("description", told.get("summary", ""))
    asked = {one["name"]: {**one["schema"], **one} for one in told.get("parameters", ())}
    return (
        f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(meaning)}</p>"
        + _fields(asked, [name for name, one in asked.items() if one["required"]], "in the path or query")
        + _fields(takes.get("properties", {}), takes.get("required", ()), "takes")
        + "".join(f"<pre>{escape(json.dumps(one))}</pre>" for one in takes.get("examples", ()))
        + _fields(gives.get("properties", {}), (), "gives")
    )


def _object(schema: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """What JSON is taken or given; nothing where it is no object of ours."""
    reference = told.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    found: dict[str, Any] = schema["components"]["schemas"].get(reference.rpartition("/")[2], {})
    return found


def _fields(fields: dict[str, Any], needed: Collection[str], title: str) -> str:
    """A table of fields."""
    if not fields:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' *' if name in needed else ''}</td>"
        f"<td>{escape(_kind(field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in fields.items()
    )
    return f"<table><tr><th>{title}<th>kind<th>meaning</tr>{rows}</table>"


def _kind(field: dict[str, Any]) -> str:
    """A field's type and bounds, in words."""
    if "anyOf" in field:
        return " or ".join(kind for one in field["anyOf"] if (kind := _kind(one)) != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    kind = str(field.get("type", "any"))
    if kind == "array":
        kind = f"list of {_kind(field.get('items', {}))}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[name]:.10g}" for name, sign in signs.items() if name in field]
    return ", ".join((kind, *bounds))
