"""The database, and keys in it."""

from functools import partial

from pydantic import SecretStr

from forebay.config.groups.group import Group, Seconds, declare

setting = partial(declare, group="keys")


class KeySettings(Group):
    database_url: SecretStr | None = setting(
        None,
        "Database for keys and what else is kept: postgresql://user:password@host/name or sqlite:///path; a SQLite "
        "file below FOREBAY_HOME, else ~/.local/share/forebay, where it is not set.",
        roles=(),
        aliases=("DATABASE_URL",),
    )
    keys_database: bool = setting(
        False, "Look keys up in the database (`forebay keys`), which database_url turns on too."
    )
    database_timeout_s: Seconds = setting(5.0, "Time to connect to the database, and for a statement, seconds.")
    key_cache_size: int = setting(
        20_000, "Keys, and as many tokens, remembered; about 1 KiB each.", ge=16, le=10_000_000
    )

    @property
    def uses_database(self) -> bool:
        """Whether keys are looked up in the database."""
        return self.keys_database or self.database_url is not None
