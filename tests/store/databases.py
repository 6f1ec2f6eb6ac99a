"""A database ready for use, and keys in it."""

from time import time
from typing import Any

from pydantic import SecretStr

from forebay.config.settings import Settings
from forebay.policy.grants import Key, NewKey
from forebay.store.database import Database, database_at
from forebay.store.keys import Keys
from forebay.store.upgrade import upgrade


def settings_for(url: str, **fields: Any) -> Settings:
    return Settings(database_url=SecretStr(url), **fields)


def made(url: str) -> Database:
    """The database at a URL, its tables made."""
    database = database_at(settings_for(url))
    upgrade(database)
    return database


def new_key(store: Keys, **fields: Any) -> tuple[Key, str]:
    return store.create(NewKey(**{"tenant": "acme", **fields}), time())
