"""D1: what who has no key learns, and by what tricks one gets in without: none."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from forebay.gateway.app import make_app
from forebay.gateway.routes import ROUTES
from forebay.generate.endpoints_reference import own_pages
from forebay.store.keys import Keys
from tests.gateway.calls import AUTH
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import MONITORING, FakeEngine
from tests.gateway.raw_client import exchange, fetch
from tests.store.databases import made, new_key

HEALTH = ("/health", "/healthz", "/livez")
READY = ("/health/ready", "/ready", "/readyz")
ENGINE = "http://127.0.0.1:9"
ADMIN = {"authorization": "Bearer sk-admin"}


@pytest.mark.parametrize("path", HEALTH)
async def test_health_tells_who_has_no_key_the_state_and_nothing_else(start_gateway: StartGateway, path: str) -> None:
    async with start_gateway(ENGINE, ready=False, admin_keys=("sk-admin",)) as running:
        for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"authorization": "nonsense"}):
            answer = await fetch(running.url, "GET", path, None, **headers)
            assert (answer.status, answer.json()) == (200, {"status": "degraded", "ready": False})
        for headers in (AUTH, ADMIN):
            told = (await fetch(running.url, "GET", path, None, **headers)).json()
            assert told["replicas"][0]["name"] == ENGINE
            assert told["version"]


@pytest.mark.parametrize("path", READY)
async def test_who_has_no_key_learns_that_it_is_not_ready_but_not_of_which_engine(
    start_gateway: StartGateway, path: str
) -> None:
    async with start_gateway(ENGINE, ready=False) as running:
        answer = await fetch(running.url, "GET", path)
        assert (answer.status, answer.json()) == (503, {"status": "not ready"})
        assert answer.header("retry-after") == "2"
        assert ENGINE in (await fetch(running.url, "GET", path, None, **AUTH)).json()["reason"]


@pytest.mark.parametrize(
    ("flags", "open_to_all"),
    [
        ({}, False),
        ({"metrics_port_public": True}, True),
        ({"metrics_public": True}, True),
        ({"api_keys": ()}, True),
    ],
)
async def test_details_are_open_just_where_the_metrics_are(
    start_gateway: StartGateway, flags: dict[str, Any], open_to_all: bool
) -> None:
    async with start_gateway(ENGINE, ready=False, metrics_port=0, **flags) as running:
        for path, status in (("/metrics", 200 if open_to_all else 401), ("/health", 200)):
            answer = await fetch(running.metrics_url, "GET", path)
            assert answer.status == status
        assert ("replicas" in answer.json()) == open_to_all
        main = (await fetch(running.url, "GET", "/health")).json()
        assert ("replicas" in main) == (open_to_all and "metrics_port_public" not in flags)


async def test_a_key_for_inference_alone_sees_no_more_of_health_than_of_the_metrics(
    database_url: str, start_gateway: StartGateway
) -> None:
    database = made(database_url)
    secret = new_key(Keys(database), scopes=["inference"])[1]
    database.close()
    async with start_gateway(ENGINE, ready=False, database_url=SecretStr(database_url)) as running:
        for _ in range(2):  # looked up, and known
            answer = await fetch(running.url, "GET", "/health", None, x_api_key=secret)
            assert answer.json() == {"status": "degraded", "ready": False}
        assert (await fetch(running.url, "GET", "/metrics", None, x_api_key=secret)).status == 403


async def test_probing_health_without_a_key_for_ever_counts_as_no_attempt(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, failed_keys_per_minute=1) as running:
        for _ in range(5):
            assert (await fetch(running.url, "GET", "/livez")).status == 200
        assert (await fetch(running.url, "GET", "/v1/models", None, x_api_key="sk-wrong")).status == 401
        assert json.loads((await fetch(running.url, "GET", "/livez")).body) == {"status": "ok", "ready": True}


# Ways in without a key

PUBLIC = {"/health", "/healthz", "/livez", "/health/ready", "/ready", "/readyz", "/version", "/openapi.json", "/docs"}
PAGE = {"/ui", "/ui/{name}"}  # files of the page, which hold no data; `page = false` takes them away
TRICKS: dict[str, Callable[[str], str]] = {
    "escaped": lambda path: "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:4]) + path[4:],
    "escaped slash": lambda path: path[:1] + path[1:].replace("/", "%2f") if "/" in path[1:] else "/%2f" + path[1:],
    "trailing slash": lambda path: path + "/",
    "two slashes": lambda path: "/" + path,
    "a public path before": lambda path: "/livez/.." + path,
    "an escaped public path before": lambda path: "/livez%2f%2e%2e" + path,
    "a dot": lambda path: "/." + path,
    "a parameter": lambda path: path + ";/livez",
    "a query": lambda path: path + "?/livez",
    "a fragment": lambda path: path + "#/livez",
    "capitals": str.upper,
    "a NUL": lambda path: path + "%00/livez",
    "absolute": lambda path: "http://x/livez" + path,
    "a backslash": lambda path: path + "\\..\\livez",
}
HEADERS = {
    "Host is a path": b"Host: x/livez?\r\n",
    "Host has a fragment": b"Host: x#/livez\r\n",
    "two Hosts": b"Host: x\r\nHost: y/livez?\r\n",
    "another path": b"Host: x\r\nX-Original-URL: /livez\r\nX-Rewrite-URL: /livez\r\nX-Forwarded-Prefix: /livez\r\n",
    "another method": b"Host: x\r\nX-HTTP-Method-Override: OPTIONS\r\nX-HTTP-Method: HEAD\r\n",
    "from loopback": b"Host: x\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n",
    "an upgrade": b"Host: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    "a tenant": b"Host: x\r\nX-Tenant: acme\r\nX-Forwarded-User: admin\r\nX-Remote-User: admin\r\n",
}


def closed_doors() -> list[tuple[str, str]]:
    """Every method and path that asks for a key."""
    names = {"{model}": "m", "{response_id}": "r"}
    relayed = [(route.method.decode(), route.path.decode()) for route in ROUTES]
    own = [(method, path) for method, paths, key, _ in own_pages() if key != "no" for path in paths]
    return [(method, re.sub(r"{\w+}", lambda found: names.get(found[0], "x"), path)) for method, path in relayed + own]


async def status_of(url: str, method: str, target: str, headers: bytes = b"Host: x\r\n") -> int:
    request = b"%s %s HTTP/1.1\r\n%sConnection: close\r\nContent-Length: 0\r\n\r\n"
    if b"Connection:" in headers:
        request = request.replace(b"Connection: close\r\n", b"")
    answer, _ = await exchange(url, request % (method.encode(), target.encode(), headers), half_close=True)
    assert answer.startswith(b"HTTP/1.1 "), (method, target, answer)
    return int(answer[9:12])


def pages_of(routes: Sequence[Any]) -> Iterator[APIRoute]:
    """All that an application serves, those of its routers included."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        else:
            yield from pages_of(route.original_router.routes)  # nothing else is mounted, or this fails


async def test_what_is_open_is_this_list_and_nothing_else_of_the_whole_application(
    start_gateway: StartGateway,
) -> None:
    """From the application itself: a router that is added without its key shows here."""
    async with start_gateway(ENGINE, ready=False, admin_keys=("sk-admin",)) as running:
        served = {(method, page.path) for page in pages_of(make_app(running.gateway).routes) for method in page.methods}
        assert len(served) > 40
        open_to_all = set()
        for method, path in served:
            target = path.replace("{model:path}", "m").replace("{name}", "app.js")
            if await status_of(running.url, method, target) != 401:
                open_to_all.add(path)
        assert open_to_all == PUBLIC | PAGE


async def test_no_trick_of_path_method_or_header_opens_a_door_without_its_key(start_gateway: StartGateway) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        asked = len(engine.requests)
        for method, path in closed_doors():
            assert await status_of(running.url, method, path) == 401, path
            for name, trick in TRICKS.items():
                assert await status_of(running.url, method, trick(path)) in (400, 401, 404, 405), (name, path)
            for name, headers in HEADERS.items():
                assert await status_of(running.url, method, path, headers) in (400, 401), (name, path)
            for other in ("HEAD", "OPTIONS", "PUT", "TRACE", "PROPFIND"):
                assert await status_of(running.url, other, path) in (400, 401, 404, 405), (other, path)
        reached = [record for record in engine.requests[asked:] if record.path not in MONITORING]
        assert reached == []


ENGINES_OWN = (
    *("/invocations", "/pause", "/resume", "/sleep", "/wake_up", "/is_sleeping", "/is_paused", "/collective_rpc"),
    *("/abort_requests", "/inference/v1/abort_requests", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/fault_tolerance/apply", "/fault_tolerance/status"),
    *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/start_profile", "/stop_profile"),
    *("/server_info", "/load", "/ping", "/tokenizer_info", "/get_world_size", "/weight_info", "/weight_checker"),
    *("/update_weights", "/start_weight_update", "/finish_weight_update", "/init_weight_transfer_engine"),
    *("/release_kv_cache_memory", "/kv_event_sources", "/classify", "/score", "/rerank", "/pooling"),
    *("/inference/v1/generate", "/v1/audio/transcriptions", "/redoc", "/metrics/"),
)


@pytest.mark.parametrize("key", ["sk-test", "sk-admin"])
async def test_no_key_reaches_what_an_engine_has_for_its_operators(start_gateway: StartGateway, key: str) -> None:
    """D2. /metrics, /openapi.json and /docs are the gateway's own, and tell nothing of an engine."""
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        authorization = f"Host: x\r\nAuthorization: Bearer {key}\r\n".encode()
        for path in ENGINES_OWN:
            for method in ("GET", "POST"):
                assert await status_of(running.url, method, path, authorization) == 404, path
            assert engine.calls(path) == []
        own = (await fetch(running.url, "GET", "/openapi.json")).json()
        assert not [path for path in own["paths"] if path in ENGINES_OWN or path.startswith("/admin")]


async def test_a_key_anywhere_but_in_its_header_is_none(start_gateway: StartGateway) -> None:
    """D3: not in the query, a cookie, the body or a second header; and nowhere is it said again."""
    key = "sk-test"
    ways = (
        ("/v1/models?api_key=sk-test&key=sk-test&access_token=sk-test", b"Host: x\r\n"),
        ("/v1/models", b"Host: x\r\nCookie: authorization=Bearer sk-test; api_key=sk-test\r\n"),
        ("/v1/models", b"Host: x\r\nProxy-Authorization: Bearer sk-test\r\nApi-Key: sk-test\r\n"),
        ("/v1/models", b"Host: x\r\nX_Api_Key: sk-test\r\n"),
    )
    two = b"Host: x\r\nAuthorization: Bearer sk-other\r\nAuthorization: Bearer sk-test\r\n"
    async with FakeEngine() as engine, start_gateway(engine.url, admin_keys=("sk-admin",)) as running:
        for target, headers in ways:
            assert await status_of(running.url, "GET", target, headers) == 401, headers
        for target in ("/v1/models", "/metrics", "/admin/v1/live", "/health"):
            assert await status_of(running.url, "GET", target, two) == 401, target
        assert await status_of(running.url, "POST", f"http://{key}@x/v1/models") == 400
