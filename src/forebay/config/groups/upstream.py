"""Engines, wherever they are: how they are reached, chosen, watched and given up."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from forebay.config.groups.group import ALL, GATEWAY, MIB, Group, Seconds, SecondsOrZero, declare, without_password

setting = partial(declare, group="upstream")


class UpstreamSettings(Group):
    upstream: tuple[str, ...] = setting(
        (),
        "Where running engines are; repeat for several. One engine: http://host:port, https://host:port or "
        "unix:///path. All addresses of a name, asked for again and again: dns://host:port or dns+https://host:port. "
        "The ready pods of a Service, by the pods' own port, number or name: kubernetes://namespace/service:port or "
        "kubernetes+https://namespace/service:port. '#name' at the end puts it into a group: another version of a "
        "model, a canary.",
        roles=GATEWAY,
        aliases=("UPSTREAMS",),
        hot=True,
    )
    upstream_api_key: SecretStr | None = setting(
        None,
        "Key sent to the engines as a bearer token; `forebay engine` starts its engine with it.",
        roles=(),
        aliases=("VLLM_API_KEY",),
    )
    upstream_ca_file: Path | None = setting(
        None,
        "PEM bundle that signs the engines' certificates; the system's by default.",
        roles=GATEWAY,
    )
    discovery_interval_s: Seconds = setting(5.0, "Time between two look-ups of a dns:// name, seconds.", roles=GATEWAY)
    routing: Literal["round_robin", "least_outstanding", "prefix"] = setting(
        "prefix",
        "How a replica is chosen: each in turn, the fewest tokens outstanding, or (prefix) the one that a conversation "
        "was with before, unless it is much busier than the rest.",
        hot=True,
    )
    group_weights: dict[str, Annotated[int, Field(ge=0, le=1_000_000)]] = setting(
        {},
        "Shares of a model's groups of replicas: group=weight, comma-separated in the environment; 100 where not said, "
        "0 only when no other group can serve.",
        hot=True,
    )
    show_replica: Literal["never", "admin", "always"] = setting(
        "never",
        "Whom the header x-forebay-replica names the replica that answered: nobody, keys with the scope admin, or all.",
        hot=True,
    )
    connect_timeout_s: Seconds = setting(2.0, "Time to connect to an engine, seconds.", roles=ALL, hot=True)
    first_byte_timeout_s: Seconds = setting(
        300.0, "Time an engine has until the first byte of its answer, seconds.", hot=True
    )
    request_timeout_s: Seconds = setting(
        600.0, "Time after which no further attempt at a request is made, seconds.", hot=True
    )
    stall_timeout_s: Seconds = setting(
        60.0, "Longest pause between two blocks of an engine's answer, seconds.", hot=True
    )
    engine_stall_s: Seconds = setting(
        15.0,
        "Time an engine may have work and make no progress before it is taken out of rotation (and restarted, if it is "
        "ours), seconds; three times as long while an engine of ours is seen computing. Longer than the longest step "
        "of engines elsewhere: a few seconds will do on GPUs, a CPU's prefill can take ten.",
        roles=ALL,
    )
    upstream_idle_s: Seconds = setting(
        4.0,
        "Time an idle engine connection is kept, seconds; shorter than the engine's own.",
        hot=True,
    )
    max_upstream_connections: int = setting(4096, "Connections to one engine.", ge=1, hot=True)
    max_answer_bytes: int = setting(
        64 * MIB, "Largest answer held whole (anything but a stream), bytes.", ge=1024, hot=True
    )
    max_event_bytes: int = setting(MIB, "Largest event in a stream, bytes.", ge=1024, hot=True)
    health_interval_s: Seconds = setting(2.0, "Time between two checks of an engine, seconds.", roles=ALL)
    health_timeout_s: Seconds = setting(5.0, "Time an engine has to answer a check, seconds.", roles=ALL)
    retry_attempts: int = setting(
        2, "Attempts for a request of which nothing has reached the client.", ge=1, le=5, hot=True
    )
    takeover_attempts: int = setting(
        3,
        "Times that a request whose engine died or stalled is taken over by another; where nothing of its answer has "
        "reached the client, at most `retry_attempts` times, as it may be what kills them.",
        ge=0,
        le=16,
        hot=True,
    )
    takeover_wait_s: SecondsOrZero = setting(
        120.0,
        "Time such a request waits for an engine to be ready, a restarted one too, seconds.",
        hot=True,
    )
    breaker_failures: int = setting(
        5, "Failures in a row after which an engine is left alone for a while.", ge=1, hot=True
    )
    breaker_ratio: float = setting(
        0.5,
        "Share of failed attempts within half a minute that has the same effect.",
        gt=0,
        le=1,
        hot=True,
    )
    breaker_pause_s: Seconds = setting(
        5.0,
        "How long it is left alone before one trial; doubled up to a minute while trials fail, seconds.",
        hot=True,
    )

    @property
    def has_upstream_key(self) -> bool:
        return self.upstream_api_key is not None and self.upstream_api_key.get_secret_value() != ""

    @field_validator("upstream")
    @classmethod
    def _refuse_passwords(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(without_password(url) for url in value)
