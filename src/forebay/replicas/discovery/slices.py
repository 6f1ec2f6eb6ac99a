"""What EndpointSlices say: which addresses of a Service may be asked. Pure; nothing here talks to anybody.

An endpoint counts while its `ready` is not false (unknown means ready, as Kubernetes defines it) and its `terminating`
is not true. A Service's endpoints are spread over several slices, one address may be in two of them for a moment, and a
pod with an IPv4 and an IPv6 address is in slices of both kinds: it is one engine, asked by IPv4.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from forebay.failures import Failure

T = TypeVar("T")

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_URL = re.compile(rf"kubernetes(\+https)?://({_LABEL})/({_LABEL}):([a-z0-9-]{{1,15}})")


@dataclass(frozen=True, slots=True)
class Service:
    """What a URL names: the pods behind a Service, and the port to ask them on, by number or by name."""

    namespace: str
    name: str
    port: int | str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> "Service":
        """Raises ValueError."""
        match = _URL.fullmatch(url)
        port: int | str = int(match[4]) if match and match[4].isdigit() else match[4] if match else 0
        if match is None or (isinstance(port, int) and not 0 < port < 65_536):
            raise ValueError(
                f"{url!r} is not kubernetes://namespace/service:port or kubernetes+https://namespace/service:port"
            )
        return cls(match[2], match[3], port, match[1] is not None)

    @property
    def path(self) -> str:
        """Where the API has the Service's slices."""
        selector = f"labelSelector=kubernetes.io%2Fservice-name%3D{self.name}"
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices?{selector}"

    @property
    def host(self) -> str:
        """The name that its pods' certificates must bear."""
        return f"{self.name}.{self.namespace}.svc"


class Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class Conditions(msgspec.Struct):
    ready: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct):
    uid: str = ""


class SliceEndpoint(msgspec.Struct, rename="camel"):
    addresses: list[str]
    conditions: Conditions | None = None
    target_ref: Target | None = None


class Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class Slice(msgspec.Struct, rename="camel"):
    """An EndpointSlice; Kubernetes writes an empty list as null."""

    metadata: Metadata
    address_type: str = ""
    endpoints: list[SliceEndpoint] | None = None
    ports: list[Port] | None = None


class SliceList(msgspec.Struct):
    metadata: Metadata
    items: list[Slice] | None = None


class Event(msgspec.Struct):
    """One line of a watch. What `object` is depends on `type`."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct):
    """The object of an ERROR event."""

    code: int = 0
    message: str = ""


def decode(kind: type[T], data: bytes | msgspec.Raw) -> T:
    """Raises `Failure`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise Failure("invalid", f"not what Kubernetes should answer: {error}") from None


def addresses(slices: Iterable[Slice], port: int | str) -> set[tuple[str, int]]:
    """Host and port of every endpoint that may be asked, one for each pod."""
    found: dict[object, tuple[str, int]] = {}
    for one in sorted(slices, key=lambda one: (one.address_type, one.metadata.name)):
        number = port if isinstance(port, int) else _port_named(one, port)
        if number is None or one.address_type not in ("IPv4", "IPv6"):
            continue
        for endpoint in filter(_may_be_asked, one.endpoints or ()):
            address = (endpoint.addresses[0], number)  # those of one endpoint are interchangeable
            pod = endpoint.target_ref.uid if endpoint.target_ref is not None else ""
            found.setdefault(pod or address, address)
    return set(found.values())


def _may_be_asked(endpoint: SliceEndpoint) -> bool:
    conditions = endpoint.conditions or Conditions()
    return bool(endpoint.addresses) and conditions.ready is not False and conditions.terminating is not True


def _port_named(one: Slice, name: str) -> int | None:
    return next((port.port for port in one.ports or () if port.name == name), None)
