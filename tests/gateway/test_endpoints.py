"""The endpoints are what their reference says."""

from forebay.gateway.routes import ROUTES
from forebay.generate.endpoints_reference import own_pages
from tests.gateway.calls import AUTH
from tests.gateway.conftest import StartGateway
from tests.gateway.raw_client import fetch


async def test_a_key_is_asked_for_just_where_the_reference_says_so(start_gateway: StartGateway) -> None:
    relayed = [(route.method.decode(), [route.path.decode()], "yes", "") for route in ROUTES]
    async with start_gateway("http://127.0.0.1:9", ready=False) as running:
        for method, paths, key, _ in [*own_pages(), *relayed]:
            for path in paths:
                target = path.replace("{model}", "m").replace("{response_id}", "r")
                body = {} if method == "POST" else None
                assert ((await fetch(running.url, method, target, body)).status == 401) == (key != "no"), path
                with_key = (await fetch(running.url, method, target, body, **AUTH)).status
                assert with_key == 403 if key == "admin" else with_key not in (401, 403, 405), path
