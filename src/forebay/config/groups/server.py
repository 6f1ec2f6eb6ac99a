"""Where callers reach us, and what they may send."""

from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Self

from pydantic import field_validator, model_validator

from forebay.config.groups.group import MIB, Group, Seconds, declare

setting = partial(declare, group="server")


class ServerSettings(Group):
    host: str = setting(
        "127.0.0.1", "Address to listen on. A socket that systemd passes goes before it, and before port."
    )
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65_535)
    tls_cert_file: Path | None = setting(
        None,
        "PEM certificate chain; turns TLS on. It and the key are read again when they change.",
    )
    tls_key_file: Path | None = setting(None, "PEM private key of the certificate.")
    max_connections: int = setting(
        10_000,
        "Client connections held at once; further ones are answered 503. When nine tenths are open, those that have "
        "rested longest make room, though keepalive_timeout_s is not over.",
        ge=1,
        hot=True,
    )
    max_url_bytes: int = setting(8192, "Longest request target, bytes.", ge=256, le=MIB, hot=True)
    max_header_bytes: int = setting(32_768, "Largest request header section, bytes.", ge=1024, le=MIB, hot=True)
    max_headers: int = setting(100, "Most header fields in a request.", ge=8, le=1000, hot=True)
    max_body_bytes: int = setting(32 * MIB, "Largest request body, bytes.", ge=1024, le=1024 * MIB, hot=True)
    max_held_bytes: int | None = setting(
        None,
        "Memory for request bodies and whole answers together, and for what clients leave unread, bytes; further ones "
        "are answered 503. An eighth of the memory by default.",
        ge=MIB,
        hot=True,
    )
    max_json_depth: int = setting(64, "Deepest nesting of a JSON body.", ge=4, le=256, hot=True)
    max_json_parts: int = setting(10_000, "Most objects and arrays in a JSON body.", ge=100, le=1_000_000, hot=True)
    header_timeout_s: Seconds = setting(10.0, "Time for a request's header section to arrive, seconds.", hot=True)
    body_timeout_s: Seconds = setting(
        30.0, "Longest pause in a request body, seconds; it must also average 1 KiB/s.", hot=True
    )
    write_timeout_s: Seconds = setting(
        30.0, "Time a client may leave its answer unread before it is cut off, seconds.", hot=True
    )
    keepalive_timeout_s: Seconds = setting(75.0, "Time an idle client connection is kept, seconds.", hot=True)
    cors_origins: tuple[str, ...] = setting(
        (),
        "Origins that browsers may call from; empty turns CORS off.",
        aliases=("CORS_ORIGINS", "ALLOWED_ORIGINS"),
    )

    trusted_proxies: tuple[str, ...] = setting(
        (),
        "Addresses and networks (10.0.0.0/8) of the proxies in front, whose X-Forwarded-For tells who the client is.",
        aliases=("TRUSTED_PROXIES",),
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _refuse_no_network(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)
        return networks

    @model_validator(mode="after")
    def _refuse_half_of_tls(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file: needs tls_key_file too, and the other way round")
        return self
