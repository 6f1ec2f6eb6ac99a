"""Limits and other fields that are wrong, wherever they come in: refused by name, and nothing of them kept."""

import json
from pathlib import Path
from time import time
from typing import Any

import pytest
from pydantic import SecretStr

from forebay.config.sources import SettingsError, load_settings
from forebay.policy.grants import NotValid
from forebay.store.audit import AuditLog
from forebay.store.database import Database
from forebay.store.keys import Keys, entries
from tests.gateway.calls import chat, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.fake_engine import FakeEngine
from tests.gateway.raw_client import RawConnection, Response, connect, fetch
from tests.store.databases import new_key

ADMIN = {"authorization": "Bearer sk-admin"}
NUMBERS = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
NO_COUNTS = ["-1", "0", "1.0", "1.5", '"5"', "true", "[]", "{}", "1000000000001", "9" * 30, "1e999", "-1e999"]
NO_JSON = ["NaN", "Infinity", "-Infinity", "01", "0x10", "1" + "0" * 5000, "'5'", "", "5,", "[" * 1000 + "]" * 1000]
NO_DATES = ["1e999", "99999999999", '"99999999999"', '"tomorrow"', '"2030-01-31T12:00:00"', "true"]
NO_DATES += ['"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"9999-12-31T23:59:59.999999Z"']
FIELDS = {
    **dict.fromkeys(NUMBERS, NO_COUNTS),
    "priority": ["101", "-101", "0.5", '"1"', "9" * 30],
    "weight": ["0", "-1", "1001", '"1"', "1e999", "true"],
    "scopes": ['["root"]', "[]", '"admin"', "null", '[["admin"]]'],
    "models": ["[]", '["a b"]', '"m"', "[1]", json.dumps(["m" * 257]), json.dumps(["m"] * 1001)],
    "name": ['"x\\ny"', '"\\u0000"', '"\\ud800"', json.dumps("x" * 129), "1"],
    "expires_at": NO_DATES,
    "is_admin": ["true"],
    "x" * 100_000: ["1"],
}
NO_OBJECTS = [
    b"{",
    b"[1]",
    b'"x"',
    b"null",
    b"7",
    b"\xff",
    b'\xef\xbb\xbf{"tenant":"a"}',
    '{"tenant":"a"}'.encode("utf-16"),
]
NO_OBJECTS += [b'{"tenant":"a","tenant":"b"}', b'{"tenant":"a","name":"\xff"}', b'{"tenant":"a"}x', b"[" * 100_000]


@pytest.fixture
def flags(database_url: str, database: Database) -> dict[str, Any]:
    return {"ready": False, "database_url": SecretStr(database_url), "admin_keys": ("sk-admin",)}


async def send(raw: RawConnection, method: str, path: str, body: bytes, headers: dict[str, str] = ADMIN) -> Response:
    await raw.request(method, f"/admin/v1{path}", body, headers)
    return await raw.read_response(method)


def refused(answer: Response, code: str) -> str | None:
    """The parameter that an answer finds wrong."""
    error = error_of(answer)
    assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", code), answer.body
    assert len(answer.body) < 1024
    assert "Value error" not in error["message"]
    param: str | None = error["param"]
    return param


async def test_administrators_are_told_which_field_is_wrong_and_nothing_is_kept(
    flags: dict[str, Any], database: Database, start_gateway: StartGateway
) -> None:
    key, _ = new_key(Keys(database), requests_per_minute=5)
    before = AuditLog(database).page()
    async with start_gateway("http://127.0.0.1:9", **flags) as running, connect(running.url) as raw:
        for name, values in FIELDS.items():
            for value in values:
                body = f'{{"tenant":"acme","{name}":{value}}}'.encode()
                told = refused(await send(raw, "POST", "/keys", body), "invalid_value")
                assert name.startswith(str(told).split(".")[0]), value[:99]
                changed = body.replace(b'"tenant":"acme",', b"")
                refused(await send(raw, "PATCH", f"/keys/{key.id}", changed), "invalid_value")
                if name in NUMBERS:
                    refused(await send(raw, "PUT", "/tenants/acme", changed), "invalid_value")
        for value in NO_JSON:
            body = f'{{"tenant":"acme","tokens_per_day":{value}}}'.encode()
            assert refused(await send(raw, "POST", "/keys", body), "invalid_json") is None
        for body in NO_OBJECTS:
            assert refused(await send(raw, "POST", "/keys", body), "invalid_json") is None
            assert (await send(raw, "POST", "/keys", body, {})).status == 401
        assert (await send(raw, "GET", f"/keys/{key.id}", b"")).json()["requests_per_minute"] == 5
    assert [one.id for one in Keys(database).page()] == [key.id]
    assert AuditLog(database).page() == before


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/keys/%00", "key_id"),
        ("PATCH", "/keys/%00", "key_id"),
        ("DELETE", "/keys/%00", "key_id"),
        ("GET", "/keys/" + "k" * 65, "key_id"),
        ("GET", "/keys?after=%00", "after"),
        ("GET", "/keys?limit=0", "limit"),
        ("GET", "/keys?limit=nan", "limit"),
        ("GET", "/keys?limit=" + "9" * 5000, "limit"),
        ("GET", "/tenants?after=%00", "after"),
        ("PUT", "/tenants/%00", "tenant"),
        ("PUT", "/tenants/a%0A", "tenant"),
        ("GET", "/usage?tenant=%00", "tenant"),
        ("GET", "/usage?model=%00", "model"),
    ],
)
async def test_a_wrong_place_is_refused_by_its_name_whatever_the_database(
    method: str, path: str, param: str, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    async with start_gateway("http://127.0.0.1:9", **flags) as running, connect(running.url) as raw:
        answer = await send(raw, method, path, b"{}" if method in ("PATCH", "PUT") else b"")
        assert refused(answer, "invalid_value") == param


@pytest.mark.parametrize("value", ["-1", "1e999", '"5"', "2592001"])
async def test_a_grace_that_is_none_is_refused(value: str, flags: dict[str, Any], start_gateway: StartGateway) -> None:
    async with start_gateway("http://127.0.0.1:9", **flags) as running, connect(running.url) as raw:
        answer = await send(raw, "POST", "/keys/none/rotate", f'{{"grace_s":{value}}}'.encode())
        assert refused(answer, "invalid_value") == "grace_s"


@pytest.mark.parametrize("name", FIELDS, ids=lambda name: name[:20])
def test_a_file_to_import_with_a_wrong_field_is_refused_by_line_and_name(name: str, database: Database) -> None:
    good = '{"tenant": "a", "key": "sk-canary-0123456789"}'
    for value in [*FIELDS[name], *(NO_JSON if name in NUMBERS else [])]:
        line = f'{{"tenant": "a", "key": "sk-canary-9876543210", "{name}": {value}}}'
        with pytest.raises(NotValid) as wrong:
            Keys(database).take_in(entries([good, line]), time())
        assert str(wrong.value).startswith("line 2: ")
        assert name[:20] in str(wrong.value) or value in NO_JSON
        assert len(str(wrong.value)) < 300
        assert "canary" not in str(wrong.value)
    assert Keys(database).page() == []


@pytest.mark.parametrize(
    "line", [b'{"tenant":"a","key":"sk-canary-0123456789","key":"sk-canary-9876543210"}', *NO_OBJECTS]
)
def test_a_file_to_import_with_a_line_that_is_no_object_is_refused(line: bytes, database: Database) -> None:
    with pytest.raises(NotValid) as wrong:
        Keys(database).take_in(entries([line.decode("utf-8", "surrogateescape")]), time())
    assert str(wrong.value).startswith("line 1: ")
    assert "canary" not in str(wrong.value)


SETTINGS = {
    "api_key_limits": ["sk-canary:0", "sk-canary:-1", "sk-canary:nan", "sk-canary:1e3", "sk-canary:" + "9" * 5000],
    "default_rate_limit": ["0", "-1", "nan", "inf", "1e3", "1.5", "9" * 5000, "many"],
    "key_limits": [f"tokens_per_day={value}" for value in ("0", "-1", "nan", "inf", "1.5", "9" * 5000, "", "x")],
    "tenant_limits": ["concurrency=0", "concurrency", "canary=5", "=5"],
    "global_limits": ["requests_per_minute=-5"],
    "max_n": ["0", "-1", "16385", "nan", "1.5"],
    "max_logprobs": ["-1", "nan"],
    "max_output_tokens": ["0", "-1", "nan", "9" * 5000],
    "max_json_parts": ["0", "1e9"],
    "queue_timeout_s": ["0", "-1", "nan", "inf", "1e9"],
    "max_queue_size": ["-1", "1e99", "nan"],
    "prices": ['{"m":{"prompt":-1}}', '{"m":{"prompt":NaN}}', "[", '{"m":{"prompt":"canary"}}'],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_is_none_is_refused_by_its_key_without_what_it_was(name: str, tmp_path: Path) -> None:
    for value in SETTINGS[name]:
        with pytest.raises(SettingsError) as wrong:
            load_settings({}, env={"API_KEYS": "sk-canary", f"FOREBAY_{name.upper()}": value})
        assert str(wrong.value).startswith(name), value[:99]
        assert "sk-canary" not in str(wrong.value)
        assert len(str(wrong.value)) < 400


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "1.5", '"5"', "true", "9" * 30, "[]"])
def test_a_file_of_settings_with_a_limit_that_is_none_names_its_line(value: str, tmp_path: Path) -> None:
    file = tmp_path / "forebay.toml"
    file.write_text(f"\nkey_limits = {{ tokens_per_day = {value} }}\n")
    if value in ('"5"',):
        assert load_settings({}, env={}, file=file)[0].key_limits == {"tokens_per_day": 5}
        return
    with pytest.raises(SettingsError, match=r"^key_limits: .*forebay.toml:2\)"):
        load_settings({}, env={}, file=file)


async def test_the_largest_limits_there_may_be_are_exact(
    database: Database, flags: dict[str, Any], start_gateway: StartGateway
) -> None:
    most = 10**12
    _, secret = new_key(Keys(database), **dict.fromkeys(NUMBERS, most))
    engine = FakeEngine(max_model_len=10_000_000)
    async with engine, start_gateway(engine.url, **{**flags, "ready": True}) as running:
        assert (await chat(running.url)).status == 200
        body = {"model": "fake-model", "messages": [], "max_tokens": 10_000_000}
        answer = await fetch(running.url, "POST", "/v1/chat/completions", body, authorization=f"Bearer {secret}")
        assert (answer.status, answer.header("x-ratelimit-limit-tokens")) == (200, str(most))
        assert answer.header("x-ratelimit-remaining-requests") == str(most - 1)
