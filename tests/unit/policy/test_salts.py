"""Each tenant's salt for engines' prefix caches."""

import json

from forebay.policy import salts
from forebay.policy.salts import Salts


def salt_of(tenant: str, secret: str = "") -> str:
    fields = json.loads(b'{"a":1' + Salts(secret).member_of(tenant) + b"}")
    return str(fields["cache_salt"])


def test_every_gateway_gives_a_tenant_the_same_salt_and_no_two_tenants_one() -> None:
    assert salt_of("acme") == salt_of("acme")
    assert len({salt_of(f"tenant-{number}") for number in range(1000)}) == 1000
    assert salt_of("") != salt_of("acme")


def test_a_secret_makes_salts_that_nobody_without_it_can_tell() -> None:
    assert len({salt_of("acme"), salt_of("acme", "s" * 32), salt_of("acme", "t" * 32)}) == 3
    assert "s" * 32 not in repr(Salts("s" * 32))


def test_a_salt_is_what_every_engine_takes() -> None:
    """vLLM refuses one with '@', '/', a backslash or NUL, and one of more than 128 characters."""
    for tenant in ("acme", 'quote"', "back\\slash", "ключ", "t" * 64):
        salt = salt_of(tenant, "s" * 32)
        assert len(salt) == 43
        assert salt.replace("-", "").replace("_", "").isalnum()


def test_tenants_without_end_take_bounded_memory_and_keep_their_salts() -> None:
    made = Salts("")
    first = made.member_of("first")
    for number in range(salts.MOST_REMEMBERED + 5):
        made.member_of(f"tenant-{number}")
        assert len(made._members) <= salts.MOST_REMEMBERED
    assert made.member_of("first") == first
