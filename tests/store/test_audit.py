"""The audit log: what changes keys is in it, in the same transaction, and no secret is. On SQLite and on PostgreSQL."""

import logging
from datetime import UTC, date, datetime
from time import time

import pytest

from forebay.policy.grants import Grant, ImportedKey, Limits, NotValid
from forebay.store.audit import Actor, AuditLog, Deed
from forebay.store.database import Database
from forebay.store.keys import Keys, RevokedKey
from tests.store.databases import new_key

ADMIN = Actor("key-admin", "192.0.2.1")


def deeds(database: Database) -> list[Deed]:
    """The oldest first."""
    return AuditLog(database).page()[::-1]


def test_every_change_of_keys_and_tenants_is_told_without_its_secret(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store = Keys(database, ADMIN)
    with caplog.at_level(logging.INFO, "forebay.audit"):
        key, secret = new_key(store, name="ci", tokens_per_day=5)
        store.change(key.id, Grant(models=("m",)))
        _, second = store.rotate(key.id, time(), 60.0)
        store.revoke(key.id, time())
        store.take_in([ImportedKey(tenant="other", key="sk-imported-from-elsewhere")], time())
        store.set_tenant("acme", Limits(concurrency=4))
    found = deeds(database)
    assert [(deed.action, deed.target, deed.details) for deed in found] == [
        ("key.created", key.id, {"tenant": "acme", "name": "ci", "tokens_per_day": 5}),
        ("key.changed", key.id, {"models": ["m"]}),
        ("key.rotated", key.id, {"grace_s": 60.0}),
        ("key.revoked", key.id, {}),
        ("keys.imported", "", {"count": 1}),
        ("tenant.set", "acme", {"concurrency": 4}),
    ]
    assert {(deed.actor, deed.address) for deed in found} == {("key-admin", "192.0.2.1")}
    assert [vars(record)["action"] for record in caplog.records] == [deed.action for deed in found]
    told = repr(found) + repr([vars(record) for record in caplog.records])
    for text in (secret, second, "sk-imported-from-elsewhere"):
        assert text.rpartition("-")[2] not in told


def test_what_fails_is_not_told(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    store = Keys(database, ADMIN)
    key, _ = new_key(store)
    store.revoke(key.id, time())
    before = deeds(database)
    caplog.clear()
    with caplog.at_level(logging.INFO, "forebay.audit"):
        with pytest.raises(RevokedKey):
            store.rotate(key.id, time())
        with pytest.raises(NotValid):
            store.take_in([ImportedKey(tenant="a", key="sk-the-same-one-twice")] * 2, time())
    assert deeds(database) == before
    assert caplog.records == []


def test_who_is_at_the_command_line_is_named(database: Database) -> None:
    new_key(Keys(database))
    (deed,) = deeds(database)
    assert deed.actor.startswith("command line: ")
    assert deed.address


def test_deeds_are_found_by_what_they_are_and_come_page_by_page(database: Database) -> None:
    log = AuditLog(database)
    for number in range(5):
        log.note(ADMIN, "settings.reloaded", f"file-{number}", number=number)
    log.note(Actor("SIGHUP", ""), "rollout.begun")
    assert [deed.target for deed in log.page(actor="key-admin", limit=2)] == ["file-4", "file-3"]
    second = log.page(actor="key-admin", limit=2)[-1]
    assert [deed.target for deed in log.page(after=second.id)] == ["file-2", "file-1", "file-0"]
    assert len(log.page(action="rollout.begun")) == len(log.page(target="file-1")) == 1
    today = datetime.now(UTC).date()
    assert len(log.page(since=today, until=today)) == 6
    assert log.page(until=date(2000, 1, 1)) == []


def test_ids_are_never_given_twice(database: Database) -> None:
    """So that who has seen a page cannot miss what comes in the place of what was taken away by hand."""
    log = AuditLog(database)
    log.note(ADMIN, "a")
    log.note(ADMIN, "b")
    last = log.page()[0].id
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM audit WHERE id = {last}")
    log.note(ADMIN, "c")
    assert log.page()[0].id > last


def test_without_a_database_the_log_line_is_there_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "forebay.audit"):
        AuditLog(None).note(ADMIN, "rollout.begun", force=True)
    (record,) = caplog.records
    assert (vars(record)["actor"], vars(record)["action"]) == ("key-admin", "rollout.begun")
