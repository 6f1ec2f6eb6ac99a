"""Engines that are the pods of a Kubernetes Service: its EndpointSlices are listed once, then watched.

A watch continues from the last resource version seen, also after it has ended or its connection has broken; where the
API no longer knows that version (410 Gone) or answers what cannot be understood, the slices are listed again. An empty
list is believed. The pod's service account needs the verbs `list` and `watch` on `endpointslices` in the namespace.
"""

import asyncio
import os
import random
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from forebay.failures import Failure
from forebay.replicas.discovery.slices import Event, Service, Slice, SliceList, Status, addresses, decode
from forebay.replicas.discovery.source import MAX_ENDPOINTS, Endpoint, Endpoints, Outage, split_group
from forebay.upstream.fetch import fetch
from forebay.upstream.lines import StatusFailure, follow
from forebay.upstream.pool import Address, UpstreamPool

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANSWER_S = 10.0
WATCH_S = 120.0  # the API ends a watch after that; one that goes on for half as long again has lost its connection
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 30.0


class KubernetesSource:
    """`kubernetes://namespace/service:port` or `kubernetes+https://…`. Raises ValueError for anything else, and where
    this process is in no pod."""

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        *,
        account: Path = ACCOUNT,
        env: Mapping[str, str] = os.environ,
        watch_s: float = WATCH_S,
    ) -> None:
        self.name = url
        self.outage = Outage(url)
        plain, self._group = split_group(url)
        self._service = service = Service.parse(plain)
        tls = ssl.create_default_context(cafile=ca_file) if service.secure else None
        self._address = Address("", tls=tls, server_name=service.host)
        self._api = api_address(account, env)
        self._account = account
        self._watch_s = watch_s
        self._slices: dict[str, Slice] = {}
        self._version = ""
        self._pause_s = 0.0

    async def observe(self) -> AsyncGenerator[Endpoints, None]:
        found: Endpoints | None = None
        async with aclosing(self._sightings()) as sightings:
            async for seen in sightings:
                if seen != found:
                    found = seen
                    yield found

    async def _sightings(self) -> AsyncGenerator[Endpoints, None]:
        """The set after each list and each event."""
        pool = UpstreamPool(self._api, connect_timeout_s=ANSWER_S, idle_s=1.0, max_connections=2)
        try:
            while True:
                try:
                    if not self._version:
                        yield await self._list(pool)
                    async with aclosing(self._watch(pool)) as sightings:
                        async for seen in sightings:
                            yield seen
                except Failure as failure:
                    self._failed(failure)
                pool.close_idle(0.0)
                await asyncio.sleep(self._next_pause())
        finally:
            pool.close()

    async def _list(self, pool: UpstreamPool) -> Endpoints:
        status, body = await fetch(pool, self._request(), ANSWER_S)
        if status != 200:
            raise StatusFailure(status, f"the list of endpoint slices was answered {status}")
        listed = decode(SliceList, body)
        self._slices = {one.metadata.name: one for one in listed.items or ()}
        self._version = listed.metadata.resource_version
        return self._endpoints()

    async def _watch(self, pool: UpstreamPool) -> AsyncGenerator[Endpoints, None]:
        """One watch, until the API ends it."""
        seconds = max(1, round(self._watch_s * random.uniform(1.0, 1.5)))  # noqa: S311
        query = f"&watch=1&allowWatchBookmarks=true&resourceVersion={self._version}&timeoutSeconds={seconds}"
        async with aclosing(follow(pool, self._request(query), seconds * 1.5)) as lines:
            async for line in lines:
                if line:
                    self._apply(decode(Event, line))
                    self._pause_s = 0.0
                    yield self._endpoints()
                self.outage.over()  # only here: to list but not to watch would be half the job
        self._pause_s = 0.0

    def _apply(self, event: Event) -> None:
        if event.type == "ERROR":
            status = decode(Status, event.object)
            raise StatusFailure(status.code, f"the watch ended with {status.code}: {status.message[:200]}")
        one = decode(Slice, event.object)
        if event.type in ("ADDED", "MODIFIED"):
            self._slices[one.metadata.name] = one
        elif event.type == "DELETED":
            self._slices.pop(one.metadata.name, None)
        self._version = one.metadata.resource_version  # all that a BOOKMARK has to say

    def _endpoints(self) -> Endpoints:
        found = addresses(self._slices.values(), self._service.port)
        if len(found) > MAX_ENDPOINTS:
            raise Failure("invalid", f"the service has {len(found)} endpoints")
        return frozenset(Endpoint.at(replace(self._address, host=host, port=port), self._group) for host, port in found)

    def _failed(self, failure: Failure) -> None:
        if failure.kind == "invalid":
            self._version = ""
        if not isinstance(failure, StatusFailure) or failure.status != 410:
            self.outage.failed(str(failure))

    def _next_pause(self) -> float:
        """Before the next attempt: twice as long each time in a row that none brought anything, less a random part."""
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), MAX_PAUSE_S)
        return self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311

    def _request(self, query: str = "") -> bytes:
        """The token is read each time, because Kubernetes replaces it every hour. Raises `Failure`."""
        try:
            token = (self._account / "token").read_text().strip()
        except OSError as error:
            raise Failure("connect", f"the service account's token cannot be read: {error.strerror}") from None
        head = f"GET {self._service.path}{query} HTTP/1.1\r\nhost: {self._api.authority}\r\n"
        return f"{head}accept: application/json\r\nauthorization: Bearer {token}\r\n\r\n".encode()


def api_address(account: Path, env: Mapping[str, str]) -> Address:
    """Where a pod reaches the Kubernetes API. Raises ValueError."""
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdigit():
        raise ValueError("kubernetes:// works in a pod only, where KUBERNETES_SERVICE_HOST is set")
    try:
        return Address(host, int(port), tls=ssl.create_default_context(cafile=account / "ca.crt"))
    except OSError as error:
        raise ValueError(f"{account / 'ca.crt'}: {error.strerror}") from None
