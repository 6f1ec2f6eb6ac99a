"""Keys of a database through a real gateway, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.policy.grants import Grant, ImportedKey
from forebay.store.database import Database
from forebay.store.keys import Keys
from tests.gateway.calls import CHAT, chat_body, error_of
from tests.gateway.conftest import Running, StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import Response, fetch
from tests.store.databases import made, new_key


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"database_url": SecretStr(database_url), "api_keys": (), "admin_keys": ("sk-admin",)}


async def ask(running: Running, secret: str, **fields: Any) -> Response:
    return await fetch(running.url, "POST", CHAT, chat_body(**fields), authorization=f"Bearer {secret}")


async def admin(running: Running, method: str, path: str, body: Any = None, key: str = "sk-admin") -> Response:
    return await fetch(running.url, method, f"/admin/v1{path}", body, authorization=f"Bearer {key}")


async def turns(running: Running, secret: str, status: int) -> float:
    """Ask until the answer has a status; return how long that took, seconds."""
    begun = monotonic()
    while (await ask(running, secret)).status != status:
        assert monotonic() - begun < 30, f"never answered {status}"
        await asyncio.sleep(0.02)
    return monotonic() - begun


async def test_a_key_opens_what_its_scopes_and_models_say(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    everything = new_key(store, models=("fake-model",))[1]
    by_alias, other = new_key(store, models=("gpt",))[1], new_key(store, models=("another",))[1]
    metrics = new_key(store, scopes=("metrics",))[1]
    async with FakeEngine() as engine, start_gateway(engine.url, model_aliases={"gpt": "*"}, **flags) as running:
        for _ in range(2):  # from the database, then from memory
            assert (await ask(running, everything)).status == 200
            assert (await ask(running, by_alias, model="gpt")).status == 200
            refused, unknown = await ask(running, other), await ask(running, everything, model="no-model")
            assert refused.status == unknown.status == 404
            told = {**error_of(refused), "message": error_of(refused)["message"].replace("fake-model", "no-model")}
            assert told == error_of(unknown)
            assert (await ask(running, metrics)).status == 403
        listed = {
            secret: (await fetch(running.url, "GET", "/v1/models", authorization=f"Bearer {secret}")).json()["data"]
            for secret in (everything, by_alias, other)
        }
        assert [len(cards) for cards in listed.values()] == [2, 1, 0]
        for path, secret, status in (
            ("/metrics", metrics, 200),
            ("/metrics", everything, 403),
            ("/v1/models", metrics, 403),
            ("/v1/models/fake-model", everything, 200),
            ("/v1/models/fake-model", other, 404),
            ("/admin/v1/keys", everything, 403),
            ("/admin/v1/keys", metrics, 403),
            ("/admin/v1/keys", "sk-admin", 200),
        ):
            answer = await fetch(running.url, "GET", path, authorization=f"Bearer {secret}")
            assert answer.status == status, path
            if status == 403:
                assert (error_of(answer)["type"], error_of(answer)["code"]) == ("permission_error", "missing_scope")


async def test_a_revoked_key_ends_in_every_gateway_within_two_seconds(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, secret = new_key(Keys(database))
    async with (
        FakeEngine() as engine,
        start_gateway(engine.url, **flags) as one,
        start_gateway(engine.url, **flags) as two,
    ):
        assert [(await ask(running, secret)).status for running in (one, two)] == [200, 200]
        assert (await admin(one, "DELETE", f"/keys/{key.id}")).status == 200
        assert max(await asyncio.gather(turns(one, secret, 401), turns(two, secret, 401))) < 2
        assert error_of(await ask(two, secret))["code"] == "invalid_api_key"


async def test_rotation_and_changes_come_into_force_within_two_seconds(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store = Keys(database)
    key, secret = new_key(store)
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        assert (await ask(running, secret)).status == 200
        store.change(key.id, Grant(models=("another",)))
        assert await turns(running, secret, 404) < 2
        store.change(key.id, Grant(models=None))
        assert await turns(running, secret, 200) < 2
        answer = await admin(running, "POST", f"/keys/{key.id}/rotate")
        assert answer.header("cache-control") == "no-store"
        assert (await ask(running, answer.json()["key"])).status == 200
        assert await turns(running, secret, 401) < 2


async def test_an_unknown_key_is_remembered_as_such_only_until_something_changes(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        keys = running.gateway.keys
        assert keys is not None
        for _ in range(5):
            assert (await ask(running, "sk-imported-later")).status == 401
        assert keys.unknown == 1
        Keys(database).take_in([ImportedKey(tenant="a", key="sk-imported-later")], 0.0)
        assert await turns(running, "sk-imported-later", 200) < 2


async def test_an_expired_key_is_refused_from_memory_too(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        _, secret = new_key(Keys(database), expires_at=datetime.now(UTC) + timedelta(seconds=2))
        assert (await ask(running, secret)).status == 200
        await turns(running, secret, 401)
        assert error_of(await ask(running, secret))["code"] == "invalid_api_key"


MALFORMED = [
    {},
    {"authorization": "Bearer "},
    {"authorization": "Bearer  x"},
    {"authorization": "Basic eDp5"},
    {"authorization": "Bearer ключ".encode().decode("latin-1")},
    {"authorization": "Bearer x y"},
    {"authorization": "Bearer " + "k" * 513},
    {"authorization": "Bearer eyJ" + "a" * 9000 + ".b.c"},
    {"x-api-key": "' OR 1=1"},
]


async def test_malformed_credentials_never_reach_the_database(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        keys = running.gateway.keys
        assert keys is not None
        for headers in MALFORMED:
            for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/admin/v1/keys")):
                answer = await fetch(running.url, method, path, chat_body() if method == "POST" else None, **headers)
                assert (answer.status, error_of(answer)["code"]) == (401, "invalid_api_key"), headers
        assert (keys.found, keys.unknown, keys.failed) == (0, 0, 0)
        assert engine.calls(CHAT) == []


async def test_administrators_make_show_list_change_and_revoke_keys(
    flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        answer = await admin(running, "POST", "/keys", {"tenant": "acme", "name": "ci", "requests_per_minute": 60})
        assert answer.status == 201
        assert answer.header("cache-control") == "no-store"
        key = answer.json()
        secret = key.pop("key")
        assert (await ask(running, secret)).status == 200
        assert (await admin(running, "GET", f"/keys/{key['id']}")).json() == key
        assert (await admin(running, "GET", "/keys?tenant=acme")).json() == {"keys": [key], "after": None}
        changed = await admin(running, "PATCH", f"/keys/{key['id']}", {"tokens_per_minute": 5})
        assert changed.json() == {**key, "tokens_per_minute": 5}
        tenant = await admin(running, "PUT", "/tenants/acme", {"concurrency": 4})
        assert (await admin(running, "GET", "/tenants")).json() == {"tenants": [tenant.json()], "after": None}
        assert (await admin(running, "POST", f"/keys/{key['id']}/revoke")).json()["revoked_at"]
        again = await admin(running, "POST", f"/keys/{key['id']}/rotate", {"grace_s": 5})
        assert (again.status, error_of(again)["code"]) == (409, "key_revoked")
        missing = await admin(running, "GET", "/keys/none")
        assert (missing.status, error_of(missing)["code"]) == (404, "key_not_found")
        await running.stop()
        assert secret not in running.log_file.read_text()


@pytest.mark.parametrize(
    ("field", "value"),
    [("requests_per_minute", -1), ("tokens_per_day", 1e18), ("weight", "2"), ("scopes", ["root"]), ("id", "mine")],
)
async def test_a_wrong_field_is_named(
    field: str, value: Any, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        answer = await admin(running, "POST", "/keys", {"tenant": "acme", field: value})
        assert answer.status == 400
        assert str(error_of(answer)["param"]).split(".")[0] == field


async def test_a_key_of_the_database_may_be_an_administrators(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    _, secret = new_key(Keys(database), scopes=("admin",))
    async with FakeEngine() as engine, start_gateway(engine.url, **{**flags, "admin_keys": ()}) as running:
        assert (await admin(running, "GET", "/keys", key=secret)).status == 200
        assert (await ask(running, secret)).status == 403
        assert (await admin(running, "GET", "/keys", key="sk-admin")).status == 401


async def test_without_the_database_known_keys_go_on_and_others_are_told_to_wait(
    postgres: str, cut_postgres: Callable[[bool], None], start_gateway: StartGateway
) -> None:
    database = made(postgres)
    known, other = new_key(Keys(database))[1], new_key(Keys(database))[1]
    database.close()
    async with (
        FakeEngine() as engine,
        start_gateway(
            engine.url, api_keys=(), admin_keys=("sk-admin",), database_url=postgres, database_timeout_s=2.0
        ) as running,
    ):
        assert (await ask(running, known)).status == 200
        cut_postgres(True)
        for _ in range(2):
            refused = await ask(running, other)
            assert (refused.status, error_of(refused)["code"]) == (503, "keys_unavailable")
            assert 2 <= int(refused.header("retry-after") or 0) <= 4
            assert (await ask(running, known)).status == 200
        assert (await admin(running, "GET", "/keys")).status == 503
        assert running.figures()["forebay_keys_database_up"] == 0
        cut_postgres(False)
        await turns(running, other, 200)
        assert running.figures()["forebay_keys_database_up"] == 1
        await running.stop()
        told = [line["message"] for line in running.log_lines() if line.get("logger") == "forebay.keys"]
        assert told == ["the keys' database cannot be reached; known keys go on", "the keys' database is back"]


async def test_who_waits_for_a_database_that_hangs_does_not_wait_for_all_before_it(
    postgres: str, start_gateway: StartGateway
) -> None:
    """Each look-up takes its whole time; those in line behind it are told as soon as the first has failed."""
    database = made(postgres)
    flags: dict[str, Any] = {"api_keys": (), "database_url": postgres, "database_timeout_s": 1.0}
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("LOCK TABLE keys IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(7):  # one after the other they take 20 s
                answers = await asyncio.gather(*(ask(running, f"sk-{number:032}") for number in range(80)))
        assert {error_of(answer)["code"] for answer in answers} == {"keys_unavailable"}
    database.close()


async def test_many_requests_with_one_new_key_are_one_look_up(postgres: str, start_gateway: StartGateway) -> None:
    database = made(postgres)
    _, secret = new_key(Keys(database))
    database.close()
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=(), database_url=postgres) as running:
        answers = await asyncio.gather(*(ask(running, secret) for _ in range(30)))
        assert {answer.status for answer in answers} == {200}
        assert running.gateway.keys is not None
        assert running.gateway.keys.found <= 2


async def test_one_who_leaves_while_its_key_is_looked_up_takes_nothing_from_the_others(
    postgres: str, start_gateway: StartGateway
) -> None:
    database = made(postgres)
    _, secret = new_key(Keys(database))
    async with FakeEngine() as engine, start_gateway(engine.url, api_keys=(), database_url=postgres) as running:
        leaving = asyncio.create_task(ask(running, secret))
        staying = asyncio.create_task(ask(running, secret))
        while not running.gateway.pipeline.running and not staying.done():
            await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).status == 200
    database.close()


async def test_the_admin_api_describes_itself_to_administrators_alone(start_gateway: StartGateway) -> None:
    async with start_gateway("http://127.0.0.1:9", ready=False, admin_keys=("sk-admin",)) as running:
        described = (await admin(running, "GET", "/openapi.json")).json()
        fields = described["components"]["schemas"]["NewKey"]["properties"]
        assert fields["requests_per_minute"]["description"]
        assert "post" in described["paths"]["/admin/v1/keys"]
        assert (await admin(running, "GET", "/openapi.json", key="sk-test")).status == 403
        answer = await admin(running, "GET", "/keys")
        assert (answer.status, "keys_database" in error_of(answer)["message"]) == (404, True)


async def test_metrics_tell_when_the_next_key_expires(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    store, now = Keys(database), datetime.now(UTC)
    new_key(store)
    late, soon = now + timedelta(days=9), now + timedelta(days=2)
    new_key(store, expires_at=late)
    revoked, _ = new_key(store, expires_at=now + timedelta(days=1))
    new_key(store, expires_at=soon)
    store.revoke(revoked.id, now.timestamp())
    async with FakeEngine() as engine, start_gateway(engine.url, **flags) as running:
        async with asyncio.timeout(20):
            while "forebay_key_expiry_timestamp_seconds" not in running.figures():
                await asyncio.sleep(0.01)
        assert running.figures()["forebay_key_expiry_timestamp_seconds"] == pytest.approx(soon.timestamp())
