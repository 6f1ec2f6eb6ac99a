"""D9: what administers is for administrators' keys alone, and no browser of theirs does it for somebody else."""

import re
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.generate.endpoints_reference import own_pages
from forebay.store.audit import AuditLog
from forebay.store.keys import Keys
from tests.gateway.calls import error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.raw_client import Response, connect, fetch
from tests.store.databases import made, new_key

ADMIN = {"authorization": "Bearer sk-admin"}
PAGES = [
    (method, re.sub(r"{\w+}", "x", path)) for method, paths, key, _ in own_pages() if key == "admin" for path in paths
]


@pytest.fixture
def flags(database_url: str) -> dict[str, Any]:
    made(database_url).close()
    return {"ready": False, "database_url": SecretStr(database_url), "admin_keys": ("sk-admin",)}


async def test_a_callers_key_administers_nothing(flags: dict[str, Any], start_gateway: StartGateway) -> None:
    database = made(flags["database_url"].get_secret_value())
    secrets = [new_key(Keys(database), scopes=scopes)[1] for scopes in (["inference"], ["metrics"])]
    before = AuditLog(database).page()
    assert len(PAGES) > 15
    async with start_gateway("http://127.0.0.1:9", **flags) as running:
        for secret in (*secrets, "sk-test"):
            for method, path in PAGES:
                body = {"tenant": "mine", "scopes": ["admin"]} if method in ("POST", "PUT", "PATCH") else None
                answer = await fetch(running.url, method, path, body, x_api_key=secret)
                assert (answer.status, error_of(answer)["code"]) == (403, "missing_scope"), path
    assert AuditLog(database).page() == before
    database.close()


async def test_nobody_raises_their_own_key_by_a_field_that_is_not_asked_for(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    """Mass assignment: a field that a form does not have is refused by its name, and nothing is changed."""
    database = made(flags["database_url"].get_secret_value())
    key, _ = new_key(Keys(database), scopes=["inference"])
    async with start_gateway("http://127.0.0.1:9", **flags) as running:
        for field, value in (
            ("id", "x"),
            ("digest", "00"),
            ("created_at", 0),
            ("revoked_at", None),
            ("is_admin", True),
        ):
            for method, path, rest in (
                ("POST", "/admin/v1/keys", {"tenant": "a"}),
                ("PATCH", f"/admin/v1/keys/{key.id}", {}),
            ):
                answer = await fetch(running.url, method, path, {**rest, field: value}, **ADMIN)
                assert (answer.status, error_of(answer)["param"]) == (400, field), path
    assert Keys(database).show(key.id) == key
    database.close()


@pytest.mark.parametrize("cors", [(), ("https://app.example",)])
async def test_a_page_from_elsewhere_cannot_have_an_administrators_browser_do_anything(
    flags: dict[str, Any], start_gateway: StartGateway, cors: tuple[str, ...]
) -> None:
    """No cookie is a key, no form is taken, and no origin but those named may even ask for leave."""
    async with start_gateway("http://127.0.0.1:9", **flags, cors_origins=cors) as running:
        async with connect(running.url) as raw:

            async def send(method: str, body: bytes, **headers: str) -> Response:
                fields = {"origin": "https://evil.example", "cookie": "authorization=Bearer sk-admin; key=sk-admin"}
                fields |= {name.replace("_", "-"): value for name, value in headers.items()}
                await raw.request(method, "/admin/v1/keys", body, fields)
                return await raw.read_response(method)

            body = b'{"tenant": "mine", "scopes": ["admin"]}'
            for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
                assert (await send("POST", body, content_type=content_type)).status == 401
                keyed = await send("POST", body, content_type=content_type, authorization="Bearer sk-admin")
                assert keyed.status == 415, "not even with the key"
            leave = await send("OPTIONS", b"", access_control_request_method="POST")
            assert leave.status in (400, 405)
            assert leave.header("access-control-allow-origin") is None
            seen = await send("GET", b"", authorization="Bearer sk-admin")
            assert seen.status == 200
            assert seen.header("access-control-allow-origin") is None
            assert seen.header("access-control-allow-credentials") is None
            assert seen.json()["keys"] == []


async def test_every_deed_is_told_with_who_did_it_and_from_where(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with start_gateway("http://127.0.0.1:9", **flags) as running:
        made_key = await fetch(running.url, "POST", "/admin/v1/keys", {"tenant": "acme"}, **ADMIN)
        assert made_key.status == 201
        key_id = made_key.json()["id"]
        assert (await fetch(running.url, "POST", f"/admin/v1/keys/{key_id}/revoke", None, **ADMIN)).status == 200
        told = (await fetch(running.url, "GET", "/admin/v1/audit", None, **ADMIN)).json()
        deeds = [(deed["action"], deed["target"], deed["address"]) for deed in next(iter(told.values()))]
        assert deeds[:2] == [("key.revoked", key_id, "127.0.0.1"), ("key.created", key_id, "127.0.0.1")]
        assert made_key.json()["key"] not in str(told)
