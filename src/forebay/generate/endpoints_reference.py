"""`docs/reference/endpoints.md`: what is relayed, from the table of routes, and the pages of Forebay's own."""

from collections.abc import Iterable, Iterator

from fastapi import APIRouter
from fastapi.routing import APIRoute

from forebay.api.agent import PAGES
from forebay.gateway.app import ADMIN, KEYED, OPEN
from forebay.gateway.routes import ROUTES, Route

HEADER = """\
<!-- Generated from the code: `make generate`. -->
# Endpoints

No other path is answered but with 404, and none reaches an engine. A path is matched as it is written: no trailing
slash, no escapes. Where keys are set, "key" says which endpoints ask for one.

## Relayed to engines

The dialect is that of errors and of streams. The name is the label `endpoint` in [metrics](metrics.md).

| method | path | key | dialect | streams | name |
| --- | --- | --- | --- | --- | --- |
"""
OWN = """
## Answered by the gateway itself

Errors are in OpenAI's form; what streams says so. `/metrics` asks for the scope `metrics` (keys of `api_keys` have it)
and is open with `metrics_public`. "admin" is a key with the scope `admin`: one of `admin_keys`, or of the database.

| method | path | key | answers with |
| --- | --- | --- | --- |
"""
AGENT = """
## Answered by an engine's agent

At `agent_host` and `agent_port` of `forebay engine`. The engine itself is asked at its own port.

| method | path | key | answers with |
| --- | --- | --- | --- |
"""

Page = tuple[str, list[str], str, str]


def render() -> str:
    agent = "".join(map(_page, pages(PAGES, key="no")))
    return HEADER + "".join(map(_relayed, ROUTES)) + OWN + "".join(map(_page, own_pages())) + AGENT + agent


def own_pages() -> list[Page]:
    """The gateway's: method, all its paths, which key is needed (no, yes, admin), and what the answer is."""
    return [*pages(OPEN, key="no"), *pages(KEYED, key="yes"), *pages(ADMIN, key="admin")]


def pages(routers: Iterable[APIRouter], *, key: str) -> Iterator[Page]:
    """Those of some routers, a row each however many paths lead there."""
    found: dict[tuple[object, ...], Page] = {}
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, APIRoute)
        methods = ", ".join(route.methods or ())
        page = found.setdefault((route.endpoint, methods), (methods, [], key, _meaning(route)))
        page[1].append(route.path.replace(":path}", "}"))
    for method, paths, needs_key, meaning in found.values():
        yield method, paths[::-1], needs_key, meaning  # decorators add the last first


def _meaning(route: APIRoute) -> str:
    return " ".join((route.endpoint.__doc__ or "").split())


def _relayed(route: Route) -> str:
    streams = "yes" if route.stream_ends else "no"
    method, path, dialect = route.method.decode(), route.path.decode(), route.dialect.value
    return f"| {method} | `{path}` | yes | {dialect} | {streams} | `{route.name}` |\n"


def _page(page: Page) -> str:
    method, paths, needs_key, meaning = page
    where = ", ".join(f"`{path}`" for path in paths)
    return f"| {method} | {where} | {needs_key} | {meaning} |\n"
