"""`forebay keys` and `forebay db`: what they print, and what they refuse."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from forebay.store.tables import SCHEMA
from tests.gateway import command
from tests.store.databases import made

GATEWAY = ("gateway", "--upstream", "http://127.0.0.1:9", "--port", "0")
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def forebay(home: Path, *words: str, status: int = 0, stdin: str = "", merged: bool = False, **env: str) -> str:
    """Run the command; return what it printed: standard output, or where it fails standard error, or both `merged`."""
    done = command.here(home, *words, stdin=stdin.encode(), FOREBAY_HOME=str(home), **env)
    assert done.status == status, done.err
    return done.out + done.err if merged else done.err if status else done.out


def as_json(home: Path, *words: str) -> Any:
    return json.loads(forebay(home, *words, "--json"))


def test_the_life_of_a_key(home: Path) -> None:
    key = as_json(home, "keys", "create", "--tenant", "acme", "--rpm", "60", "--model", "m", "--expires", "30d")
    secret = key.pop("key")
    assert (key["tenant"], key["requests_per_minute"], key["models"]) == ("acme", 60, ["m"])
    assert as_json(home, "keys", "list") == [key]
    assert as_json(home, "keys", "show", key["id"]) == key
    table = forebay(home, "keys", "list", "--tenant", "acme")
    assert key["id"] in table
    assert key["expires_at"][:19] in forebay(home, "keys", "list", COLUMNS="20"), "a narrow terminal cuts nothing off"
    assert secret.rpartition("-")[2] not in table
    assert forebay(home, "keys", "rotate", key["id"]).strip() != secret
    forebay(home, "keys", "revoke", key["id"])
    assert "revoked" in forebay(home, "keys", "list")
    assert "for good" in forebay(home, "keys", "rotate", key["id"], status=1)
    assert "no key nope" in forebay(home, "keys", "show", "nope", status=1)
    for file in home.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_what_is_not_said_of_a_key_stays_and_none_lifts_a_limit(home: Path) -> None:
    key = as_json(
        home, "keys", "create", "--tenant", "acme", "--rpm", "60", "--tpm", "9", "--model", "m", "--name", "none"
    )
    words = ("--rpm", "120", "--tpm", "none", "--model", "none", "--weight", "2")
    changed = as_json(home, "keys", "change", key["id"], *words)
    new = {"requests_per_minute": 120, "tokens_per_minute": None, "models": None, "weight": 2.0}
    assert changed == {name: value for name, value in {**key, **new}.items() if name != "key"}
    assert forebay(home, "keys", "change", key["id"], "--rpm", "0", status=2).startswith("forebay: requests_per_minute")


def test_tenants_have_limits_that_are_set_and_lifted(home: Path) -> None:
    forebay(home, "tenants", "set", "acme", "--tpm", "1000", "--concurrency", "4")
    (tenant,) = as_json(home, "tenants", "set", "acme", "--tpm", "none")
    assert (tenant["id"], tenant["tokens_per_minute"], tenant["concurrency"]) == ("acme", None, 4)
    assert as_json(home, "tenants", "list") == [tenant]
    assert forebay(home, "tenants", "set", "a b", status=2).startswith("forebay: tenant: ")


def test_a_key_may_end_when_a_day_begins(home: Path) -> None:
    key = as_json(home, "keys", "create", "--tenant", "acme", "--expires", "2130-01-31")
    assert key["expires_at"] == "2130-01-31T00:00:00Z"


def test_who_makes_a_key_that_no_gateway_would_know_is_told(home: Path) -> None:
    words = ("keys", "create", "--tenant", "acme")
    assert "keys_database" in forebay(home, *words, merged=True)
    assert "keys_database" not in forebay(home, *words, merged=True, FOREBAY_KEYS_DATABASE="true")


def test_keys_are_imported_from_a_file_or_standard_input(home: Path) -> None:
    lines = "\n".join(json.dumps({"tenant": "a", "key": f"sk-elsewhere-{number:04}"}) for number in range(1500))
    (home / "keys.jsonl").write_text(lines)
    assert forebay(home, "keys", "import", "keys.jsonl") == "forebay: 1500 keys imported\n"
    assert forebay(home, "keys", "import", "none.jsonl", status=1).endswith("none.jsonl: No such file or directory\n")
    told = forebay(home, "keys", "import", "-", stdin='{"tenant": "a"}', status=2)
    assert told == "forebay: line 1: give either key or sha256\n"
    assert len(as_json(home, "keys", "list", "--limit", "2000")) == 1500


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--rpm", "-1", "requests_per_minute"),
        ("--tpm", "1e18", "tokens_per_minute"),
        ("--weight", "NaN", "weight"),
        ("--concurrency", "many", "concurrency"),
        ("--expires", "soon", "expires_at"),
        ("--scope", "root", "scopes.0"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(option: str, value: str, field: str, home: Path) -> None:
    told = forebay(home, "keys", "create", "--tenant", "a", option, value, status=2)
    assert told.startswith(f"forebay: {field}: ")
    assert told.count("\n") == 1


def test_tokens_are_short_lived_and_signed(home: Path) -> None:
    words = ("keys", "token", "--tenant", "acme", "--rpm", "9", "--model", "m", "--lasts", "5m")
    token = forebay(home, *words, SECRET_KEY=SECRET, FOREBAY_JWT_AUDIENCE="forebay").strip()
    claims = jwt.decode(token, SECRET, ["HS256"], audience="forebay")
    assert claims["exp"] - claims["iat"] == 300
    assert (claims["tenant"], claims["limits"], claims["models"]) == ("acme", {"requests_per_minute": 9}, ["m"])
    assert "SECRET_KEY" in forebay(home, *words, status=2)
    assert "1d" in forebay(home, *words[:-1], "30d", status=2, SECRET_KEY=SECRET)
    assert list(home.iterdir()) == []


def test_a_gateway_refuses_to_start_on_tables_that_are_not_there(home: Path, postgres: str) -> None:
    told = asyncio.run(command.forebay(home, *GATEWAY, DATABASE_URL=postgres)).err
    assert "run `forebay db upgrade`" in told
    assert told.count("\n") == 1
    assert f"is at {SCHEMA}" in forebay(home, "db", "upgrade", DATABASE_URL=postgres)
    made(postgres).close()
    assert as_json_of(home, postgres) == []


def as_json_of(home: Path, url: str) -> Any:
    return json.loads(forebay(home, "keys", "list", "--json", DATABASE_URL=url))


def test_a_gateway_refuses_to_start_on_a_key_set_that_is_none(home: Path) -> None:
    done = asyncio.run(command.forebay(home, *GATEWAY, "--jwks", "none.json"))
    assert (done.status, done.err.partition("none.json: ")[0]) == (1, "forebay: jwks: ")
