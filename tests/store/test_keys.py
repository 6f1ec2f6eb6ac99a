"""Keys in the database: made, rotated, revoked, imported; on SQLite and on PostgreSQL."""

import threading
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import time
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import select, text

from forebay.policy.auth import UNLIMITED, KeyLimits, Principal, fixed_keys
from forebay.policy.grants import Grant, Limits, NewKey, NotValid, not_valid
from forebay.store.database import Database
from forebay.store.directory import KeyDirectory
from forebay.store.keys import Keys, RevokedKey, UnknownKey, entries
from forebay.store.tables import key_secrets
from tests.store.databases import new_key


@pytest.fixture
def store(database: Database) -> Keys:
    return Keys(database)


async def principal_of(database: Database, secret: str, default: KeyLimits = UNLIMITED) -> Principal | None:
    """Whom a gateway that has just started takes a secret for."""
    directory = KeyDirectory(database, 16, default)
    try:
        found = directory.find(secret.encode(), sha256(secret.encode()).digest(), time(), "")
        found = await found if found is not None and not isinstance(found, Principal) else found
        return found if isinstance(found, Principal) else None
    finally:
        await directory.close()


def numbers(database: Database) -> int:
    with database.engine.connect() as connection:
        return int(connection.execute(text("SELECT number FROM changes")).scalar_one())


async def test_a_key_becomes_the_principal_that_it_was_made_as(database: Database, store: Keys) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    store.set_tenant("acme", Limits(tokens_per_day=5))
    key, secret = new_key(
        store,
        scopes=("metrics", "inference"),
        models=("b/m", "a"),
        priority=-2,
        weight=2.5,
        requests_per_minute=10,
        tokens_per_month=10**12,
        expires_at=soon,
    )
    assert await principal_of(database, secret) == Principal(
        "acme",
        key.id,
        frozenset({"inference", "metrics"}),
        frozenset({"a", "b/m"}),
        -2,
        2.5,
        KeyLimits(requests_per_minute=10, tokens_per_month=10**12),
        KeyLimits(tokens_per_day=5),
        soon.timestamp(),
    )
    assert store.show(key.id) == key
    assert key.expires_at == soon


async def test_the_default_rate_is_for_keys_without_their_own(database: Database, store: Keys) -> None:
    default = KeyLimits(requests_per_minute=7)
    for own, expected in ((None, 7), (10, 10)):
        _, secret = new_key(store, requests_per_minute=own, concurrency=3)
        principal = await principal_of(database, secret, default)
        assert principal is not None
        assert principal.limits == KeyLimits(requests_per_minute=expected, concurrency=3)


async def test_only_a_hash_of_the_secret_is_kept(database: Database, store: Keys) -> None:
    key, secret = new_key(store)
    prefix, key_id, rest = secret.split("-", 2)
    assert (prefix, key_id, len(rest)) == ("fb", key.id, 43)
    assert secret not in repr(key)
    with database.engine.connect() as connection:
        rows = [
            repr(connection.execute(text(f"SELECT * FROM {table}")).all()) for table in ("keys", "tenants", "changes")
        ]
        assert connection.execute(select(key_secrets)).all() == [(sha256(secret.encode()).digest(), key.id, None)]
    assert rest not in "".join(rows)


async def test_rotation_ends_the_secret_before_at_once_or_after_its_grace(database: Database, store: Keys) -> None:
    key, first = new_key(store)
    _, second = store.rotate(key.id, time())
    assert await principal_of(database, first) is None
    _, third = store.rotate(key.id, time(), grace_s=60.0)
    older, newer = await principal_of(database, second), await principal_of(database, third)
    assert older is not None
    assert newer is not None
    assert older.key_id == newer.key_id == key.id
    assert newer.expires_at is None
    assert older.expires_at == pytest.approx(time() + 60, abs=5)


async def test_a_revoked_key_is_nobodys_and_can_not_be_brought_back(database: Database, store: Keys) -> None:
    key, secret = new_key(store)
    assert store.revoke(key.id, 5.0) == store.revoke(key.id, 6.0)
    assert store.show(key.id).revoked_at == datetime.fromtimestamp(5.0, UTC)
    assert await principal_of(database, secret) is None
    with pytest.raises(RevokedKey):
        store.rotate(key.id, time())
    with pytest.raises(RevokedKey):
        store.change(key.id, Grant(name="x"))


def test_what_is_not_there_is_said(store: Keys) -> None:
    for act in (
        lambda: store.show("x"),
        lambda: store.rotate("x", 0.0),
        lambda: store.revoke("x", 0.0),
        lambda: store.change("x", Grant()),
    ):
        with pytest.raises(UnknownKey):
            act()


def test_a_change_takes_on_what_is_set_and_keeps_the_rest(store: Keys) -> None:
    key, _ = new_key(store, requests_per_minute=5, tokens_per_day=9, models=("m",))
    changed = store.change(key.id, Grant(requests_per_minute=6, models=None))
    assert changed == key.model_copy(update={"requests_per_minute": 6, "models": None})


def test_every_change_takes_a_number_of_its_own(database: Database, store: Keys) -> None:
    key, _ = new_key(store)
    store.rotate(key.id, time())
    store.change(key.id, Grant(name="x"))
    store.set_tenant("acme", Limits())
    store.revoke(key.id, time())
    assert numbers(database) == 5


def test_pages_hold_every_key_once(store: Keys) -> None:
    made_ids = {new_key(store, tenant=f"t{number % 2}")[0].id for number in range(7)}
    seen: list[str] = []
    while page := store.page(after=seen[-1] if seen else "", limit=3):
        seen += [key.id for key in page]
    assert seen == sorted(made_ids)
    assert len(store.page("t0")) == 4


def test_keys_and_tenants_made_and_rotated_at_the_same_time_all_are(database: Database, store: Keys) -> None:
    key, _ = new_key(store)
    failures: list[Exception] = []

    def work() -> None:
        try:
            for number in range(5):
                new_key(Keys(database), tenant=f"t{number}")
                Keys(database).rotate(key.id, time())
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.page()) == 41
    assert numbers(database) == 81
    with database.engine.connect() as connection:
        assert len(connection.execute(select(key_secrets).where(key_secrets.c.key_id == key.id)).all()) == 1


async def test_imported_keys_work_by_their_text_and_by_their_hash(database: Database, store: Keys) -> None:
    old = "sk-litellm-0123456789"
    lines = [
        '{"tenant": "acme", "key": "sk-made-elsewhere-1", "id": "ci", "requests_per_minute": 3}',
        "",
        f'{{"tenant": "acme", "sha256": "{sha256(old.encode()).hexdigest()}"}}',
    ]
    assert store.take_in(entries(lines), time()) == 2
    first, second = await principal_of(database, "sk-made-elsewhere-1"), await principal_of(database, old)
    assert first is not None
    assert (first.key_id, first.limits.requests_per_minute) == ("ci", 3)
    assert second is not None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nope", "line 2"),
        ('{"tenant": "a", "key": "short"}', "line 2: key"),
        ('{"tenant": "a"}', "line 2: give either key or sha256"),
        ('{"tenant": "a", "key": "0123456789abcdef", "sha256": "' + "0" * 64 + '"}', "line 2: give either"),
        ('{"tenant": "a", "sha256": "xyz"}', "line 2: sha256"),
        ('{"tenant": "a", "key": "0123456789abcdef", "requests_per_minute": -1}', "line 2: requests_per_minute"),
        ('{"tenant": "a", "key": "sk-good-0123456789"}', "already or comes twice"),
    ],
)
def test_an_import_that_is_wrong_anywhere_takes_nothing_in(line: str, told: str, store: Keys) -> None:
    with pytest.raises(NotValid, match=told) as refused:
        store.take_in(entries(['{"tenant": "a", "key": "sk-good-0123456789"}', line]), time())
    assert "0123456789" not in str(refused.value)
    assert store.page() == []
    assert store.tenants() == []


NUMBERS = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_day", "tokens_per_month")
WRONG = [
    *((name, value) for name in NUMBERS for value in (-1, 0, 10**18, float("nan"), float("inf"), "5", 1.5, True)),
    ("weight", float("nan")),
    ("weight", 0),
    ("weight", -1.0),
    ("weight", "1"),
    ("weight", 1e18),
    ("priority", 101),
    ("priority", 0.5),
    ("scopes", ["root"]),
    ("scopes", []),
    ("models", []),
    ("models", ["a b"]),
    ("models", [1]),
    ("name", "x\ny"),
    ("name", "x" * 129),
    ("tenant", ""),
    ("tenant", "a b"),
    ("tenant", "../x"),
    ("expires_at", 10**18),
    ("expires_at", float("nan")),
    ("expires_at", "tomorrow"),
    ("expires_at", "2030-01-01T00:00:00"),
    ("is_admin", True),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=repr)
def test_a_wrong_field_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        NewKey(**{"tenant": "acme", name: value})
    assert not_valid(refused.value).field.split(".")[0] == name


def test_a_key_that_has_ended_already_is_not_made(store: Keys) -> None:
    with pytest.raises(NotValid, match="expires_at"):
        new_key(store, expires_at=datetime.now(UTC) - timedelta(seconds=1))


def test_limits_that_no_caller_of_a_configured_key_would_be_held_to_are_refused(store: Keys) -> None:
    (configured,) = {one.tenant for one in fixed_keys(["sk-a"], [], {}, UNLIMITED).values()}
    with pytest.raises(NotValid, match="settings"):
        store.set_tenant(configured, Limits(concurrency=1))
    assert store.tenants() == []
