"""What a key may be given, and what is told of it: every field with its bounds, checked before anything is stored.

Numbers must be numbers: a string, NaN, a fraction where a count is meant or a value out of range is refused with the
name of its field. None means unlimited for a limit, and all for `models`.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

MOST = 10**12
MAX_NAME = 64  # of a field that is no field of ours, this much is said again
Scope = Literal["inference", "metrics", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}$")]
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
ModelName = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,256}$")]


class Limits(BaseModel):
    """What a key or a tenant may use; null where it is not bounded."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    requests_per_minute: Count | None = Field(None, description="Requests in a minute.")
    tokens_per_minute: Count | None = Field(None, description="Tokens in a minute, prompts and answers.")
    concurrency: Count | None = Field(None, description="Requests under way at once.")
    tokens_per_day: Count | None = Field(None, description="Tokens in a day (UTC).")
    tokens_per_month: Count | None = Field(None, description="Tokens in a calendar month (UTC).")


class Grant(Limits):
    """What a key may do."""

    name: Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field("", description="For people.")
    scopes: tuple[Scope, ...] = Field(("inference",), min_length=1, description="What it opens.")
    models: Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Models it may name, by name or alias; null for all."
    )
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = Field(0, description="Higher goes first.")
    weight: Annotated[float, Field(strict=True, ge=0.01, le=1000, allow_inf_nan=False)] = Field(
        1.0, description="Its tenant's share where tenants compete."
    )
    expires_at: AwareDatetime | None = Field(None, description="When it ends, with a time zone; null for never.")

    @field_validator("expires_at", mode="before")
    @classmethod
    def _is_a_date(cls, value: Any) -> Any:
        if isinstance(value, int | float) or (isinstance(value, str) and "-" not in value[1:]):
            raise ValueError("must be a date and time with a time zone, such as 2030-01-31T12:00:00Z")
        return value

    @field_validator("expires_at")
    @classmethod
    def _in_utc(cls, value: datetime | None) -> datetime | None:
        try:
            # As it is kept and shown again: the last microseconds of the year 9999 are the year 10000's as a float.
            return at(value.timestamp()) if value is not None else None
        except (OverflowError, ValueError):
            raise ValueError("must be from the year 1 to 9999 (UTC)") from None

    @field_validator("scopes", "models")
    @classmethod
    def _sorted(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return tuple(sorted(set(value))) if value is not None else None


class NewKey(Grant):
    """A key to be made."""

    tenant: TenantName = Field(description="Whom it belongs to; a tenant not yet known is made.")


class ImportedKey(NewKey):
    """A key made elsewhere: by its text, or by the SHA-256 of it."""

    id: KeyId | None = Field(None, description="Its id; one is made where there is none.")
    key: Annotated[str, Field(pattern=r"^[\x21-\x7e]{16,512}$")] | None = Field(None, description="Its text.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(None, description="Or its hash, in hex.")


class Key(Grant):
    """What is told of a key. Its secret is not: only a hash of it is kept."""

    id: str
    tenant: str
    created_at: datetime
    revoked_at: datetime | None = None
    expires_at: datetime | None = None


class Tenant(Limits):
    """A tenant: what all its keys may use together."""

    id: str


class NotValid(ValueError):
    """Fields that cannot be taken. `field` is the first one that is wrong, and the message says what is."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}" if field else why)
        self.field = field


def not_valid(error: ValidationError) -> NotValid:
    """Pydantic's finding as ours; of the input nothing is in it but the start of a field's name."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return NotValid(dotted(first["loc"]), said(first["msg"]))


def said(finding: str) -> str:
    """What Pydantic found, without its words about itself."""
    return finding.removeprefix("Value error, ")


def dotted(path: Iterable[Any]) -> str:
    """A field's place as people write it, short whatever the names are that somebody thought of."""
    return ".".join(str(part)[:MAX_NAME] for part in path)[: 2 * MAX_NAME]


def at(wall: float | None) -> datetime | None:
    """Wall-clock seconds as people read them."""
    return datetime.fromtimestamp(wall, UTC) if wall is not None else None
