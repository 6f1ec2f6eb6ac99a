"""A stand-in for the Kubernetes API, as far as EndpointSlices go: list, and watch from a resource version.

It speaks TLS, asks for the service account's bearer token, keeps a history of changes and can forget it (410 Gone),
sends bookmarks, ends watches when asked to, drops connections and goes away. `account` is what a pod finds mounted,
`env` what it finds in its environment.

    async with FakeKubernetes(tmp_path) as api:
        api.put("vllm-abc", "vllm", [endpoint("127.0.0.1")], port=8000)
        source = KubernetesSource("kubernetes://prod/vllm:http", account=api.account, env=api.env)
"""

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

PATH = "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"
SERVICE_LABEL = "kubernetes.io/service-name"


def endpoint(address: str, pod: str = "", **conditions: bool) -> dict[str, Any]:
    """One endpoint of a slice; without conditions, they are unknown."""
    target = {"targetRef": {"kind": "Pod", "name": pod, "uid": pod}} if pod else {}
    return {"addresses": [address], "conditions": conditions, "nodeName": "node-1", **target}


def endpoint_slice(
    name: str, service: str, endpoints: list[dict[str, Any]], port: int = 8000, address_type: str = "IPv4"
) -> dict[str, Any]:
    """An EndpointSlice as the API writes it: what is empty is null."""
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "namespace": "prod", "labels": {SERVICE_LABEL: service}, "generation": 1},
        "addressType": address_type,
        "endpoints": endpoints or None,
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
    }


@dataclass
class Asked:
    """One request."""

    query: dict[str, str]
    token: str

    @property
    def watch(self) -> bool:
        return "watch" in self.query


@dataclass(eq=False)
class _Watch:
    writer: asyncio.StreamWriter
    service: str
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, kind: str, thing: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": thing}).encode() + b"\n"
        self.writer.write(b"%x\r\n%s\r\n" % (len(line), line))


class FakeKubernetes:
    """See the module's text. Tests read `asked`, `watches` and `versions`."""

    def __init__(self, directory: Path) -> None:
        self.account = directory / "serviceaccount"
        self.account.mkdir()
        self.token = "token-1"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.account / "ca.crt"))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._tls)
        self.port = 0
        self.version = 100
        self.asked: list[Asked] = []
        self.watches: set[_Watch] = set()
        self.status = 200  # what everything is answered with
        self.deaf = False  # watches neither end nor tell anything: their connection is lost
        self.may_watch = True
        self.http_410 = False  # how a version too old is told: by status, or (as mostly) by an ERROR event
        self._oldest = self.version
        self.slices: dict[str, dict[str, Any]] = {}
        self._history: list[tuple[int, str, dict[str, Any]]] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.rotate(self.token)

    def __repr__(self) -> str:
        return f"<FakeKubernetes version={self.version} watches={len(self.watches)} asked={self.asked}>"

    @property
    def env(self) -> dict[str, str]:
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    async def __aenter__(self) -> "FakeKubernetes":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, at the same port again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Cut every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def rotate(self, token: str) -> None:
        """Only this token is taken from now on."""
        self.token = token
        (self.account / "token").write_text(token + "\n")

    def put(self, name: str, service: str, endpoints: list[dict[str, Any]], **fields: Any) -> None:
        """Make or change a slice."""
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self._record(kind, endpoint_slice(name, service, endpoints, **fields))

    def delete(self, name: str) -> None:
        self._record("DELETED", self.slices[name])

    def forget(self) -> None:
        """Keep no history: who continues from an older version gets 410."""
        self.version += 1
        self._oldest, self._history = self.version, []

    def bookmark(self) -> None:
        """Tell every watch the newest version, without a change."""
        for watch in self.watches:
            empty = {"metadata": {"resourceVersion": str(self.version), "creationTimestamp": None}, "endpoints": None}
            watch.send("BOOKMARK", {"kind": "EndpointSlice", "addressType": "", "ports": None, **empty})

    def tell(self, line: bytes) -> None:
        """Send every watch these bytes as a line."""
        for watch in self.watches:
            watch.writer.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))

    def end_watches(self) -> None:
        """End every watch properly, as their time-out does."""
        for watch in self.watches:
            watch.over.set()

    async def wait_for(self, predicate: Callable[["FakeKubernetes"], Any]) -> None:
        """Return once it holds; asked at every request."""
        async with asyncio.timeout(30):
            while not predicate(self):
                self._changed.clear()
                await self._changed.wait()

    def _record(self, kind: str, thing: dict[str, Any]) -> None:
        self.version += 1
        metadata = {**thing["metadata"], "resourceVersion": str(self.version)}
        thing = {**thing, "metadata": metadata}
        if kind == "DELETED":
            del self.slices[metadata["name"]]
        else:
            self.slices[metadata["name"]] = thing
        self._history.append((self.version, kind, thing))
        for watch in self.watches:
            if not self.deaf and metadata["labels"][SERVICE_LABEL] == watch.service:
                watch.send(kind, thing)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(head.split(" ", 2)[1])
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        bearer = re.search(r"\r\nauthorization: Bearer (.+)\r\n", head)
        asked = Asked(query, bearer[1] if bearer else "")
        selector = re.fullmatch(re.escape(SERVICE_LABEL) + "=(.+)", query.get("labelSelector", ""))
        status = self.status
        if asked.token != self.token:
            status = 401
        elif target.path != PATH or selector is None:
            status = 404
        elif asked.watch and not self.may_watch:
            status = 403
        elif asked.watch and self.http_410 and int(query["resourceVersion"]) < self._oldest:
            status = 410
        self.asked.append(asked)
        if status != 200 or selector is None:
            self._send(writer, status, {"kind": "Status", "code": status})
        elif asked.watch:
            await self._watch(asked, _Watch(writer, selector[1]))
        else:
            items = [one for one in self.slices.values() if one["metadata"]["labels"][SERVICE_LABEL] == selector[1]]
            metadata = {"resourceVersion": str(self.version)}
            self._send(writer, 200, {"kind": "EndpointSliceList", "metadata": metadata, "items": items or None})
        self._changed.set()

    def _send(self, writer: asyncio.StreamWriter, status: int, thing: dict[str, Any]) -> None:
        body = json.dumps(thing).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))

    async def _watch(self, asked: Asked, watch: _Watch) -> None:
        since = int(asked.query["resourceVersion"])
        watch.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        if since < self._oldest:
            watch.send("ERROR", {"kind": "Status", "code": 410, "message": f"too old resource version: {since}"})
        else:
            for version, kind, thing in self._history:
                if version > since and thing["metadata"]["labels"][SERVICE_LABEL] == watch.service:
                    watch.send(kind, thing)
            self.watches.add(watch)
            self._changed.set()
            await self._until_over(asked, watch)
        watch.writer.write(b"0\r\n\r\n")
        await watch.writer.drain()

    async def _until_over(self, asked: Asked, watch: _Watch) -> None:
        """Its time has passed, or it is ended, or its connection is cut."""
        try:
            async with asyncio.timeout(None if self.deaf else int(asked.query["timeoutSeconds"])):
                while not watch.over.is_set() and not watch.writer.transport.is_closing():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(watch.over.wait(), 0.05)
        except TimeoutError:
            pass
        finally:
            self.watches.discard(watch)
            self._changed.set()
