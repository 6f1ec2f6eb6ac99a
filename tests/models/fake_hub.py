"""A Hugging Face hub on loopback: the part of its interface that fetching a model meets, with tiny files.

It answers as the real one does: a listing by commit, in pages; HEAD and GET of a file with `ETag` and `X-Repo-Commit`;
large files with `X-Linked-Etag` and a redirect to a storage of another name; `Range`; and errors with `X-Error-Code`. A
test can have it cut a file off, spoil it, or refuse.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

TOKEN = "hf_right"
PAGE = 3
NONE: Mapping[str, str] = {}


@dataclass
class FakeModel:
    """A model's files. `large` are kept in the storage, under SHA-256; `gated` asks for a token."""

    files: dict[str, bytes]
    large: frozenset[str] = frozenset()
    gated: bool = False
    commit: str = "a" * 40
    refs: dict[str, str] = field(default_factory=dict)


class FakeHub:
    """The hub, while it is open. `asked` are its requests: method, path, the range and the token asked with."""

    def __init__(self, models: Mapping[str, FakeModel]) -> None:
        self.models = dict(models)
        self.asked: list[tuple[str, str, str | None, str | None]] = []
        self.cut_at: dict[str, int] = {}  # a file ends there, once
        self.hold_at: dict[str, int] = {}  # a file stops coming there, until the hub is closed
        self.spoilt: set[str] = set()
        self.status: dict[str, int] = {}  # what a path is answered instead
        self.held = threading.Event()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _requests_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def gets(self, file: str) -> list[str | None]:
        """The ranges that a file's content was asked for with."""
        return [range_ for method, path, range_, _ in self.asked if method == "GET" and path.endswith(f"/{file}")]


def _requests_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("authorization")
            hub.asked.append((self.command, path, self.headers.get("range"), token))
            if status := hub.status.get(path):
                return self.send(status)
            if path.startswith("/storage/"):
                return self.stored(path)
            parts = path.strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            owner, name, kind, revision, *rest = (parts[2:] if is_api else parts) + [""] * 5
            model = hub.models.get(f"{owner}/{name}")
            if token not in (None, f"Bearer {TOKEN}"):
                return self.send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            if model is None:
                return self.send(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"})
            commit = revision if revision == model.commit else model.refs.get(revision, "")
            if revision == "main":
                commit = model.commit
            if kind and not commit:
                return self.send(404, {"X-Error-Code": "RevisionNotFound"})
            if is_api and kind == "tree":
                return self.tree(model)
            if is_api:
                return self.send_json({"id": f"{owner}/{name}", "sha": commit or model.commit, "siblings": []})
            return self.file(model, "/".join(part for part in rest if part), token)

        def tree(self, model: FakeModel) -> None:
            start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
            entries = [entry_of(model, path) for path in sorted(model.files)]
            more = {}
            if start + PAGE < len(entries):
                here = self.path.partition("?")[0]
                more = {"Link": f'<{hub.url}{here}?recursive=true&cursor={start + PAGE}>; rel="next"'}
            self.send_json(entries[start : start + PAGE], more)

        def file(self, model: FakeModel, path: str, token: str | None) -> None:
            if model.gated and token is None:
                return self.send(401, {"X-Error-Code": "GatedRepo"})
            if path not in model.files:
                return self.send(404, {"X-Error-Code": "EntryNotFound"})
            content = model.files[path]
            commit = {"X-Repo-Commit": model.commit}
            if path not in model.large:
                return self.content(path, content, {**commit, "ETag": f'"{git_digest(content)}"'})
            digest = hashlib.sha256(content).hexdigest()
            there = f"http://localhost:{hub.port}/storage/{digest}/{path}"
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "Location": there}
            return self.send(302, {**commit, **linked})

        def stored(self, path: str) -> None:
            _, digest, name = path.strip("/").split("/", 2)
            for model in hub.models.values():
                if name in model.files and hashlib.sha256(model.files[name]).hexdigest() == digest:
                    return self.content(name, model.files[name], {"ETag": '"of-the-storage"'})
            return self.send(404)

        def content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
            whole = len(content)
            start = 0
            if asked := self.headers.get("range"):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                headers = {**headers, "Content-Range": f"bytes {start}-{whole - 1}/{whole}"}
            content = content[start:]
            if path in hub.spoilt:
                content = bytes(len(content))
            self.send_response(206 if asked else 200)
            for name, value in {**headers, "Content-Length": str(len(content)), "Accept-Ranges": "bytes"}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if (at := hub.cut_at.pop(path, None)) is not None:
                self.wfile.write(content[:at])
                self.close_connection = True
            elif (at := hub.hold_at.get(path)) is not None:
                self.wfile.write(content[:at])
                hub.held.set()
                hub.closing.wait()
                self.close_connection = True
            else:
                self.wfile.write(content)

        def send_json(self, found: Any, headers: Mapping[str, str] = NONE) -> None:
            self.send(200, {"Content-Type": "application/json", **headers}, json.dumps(found).encode())

        def send(self, status: int, headers: Mapping[str, str] = NONE, body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Requests


def entry_of(model: FakeModel, path: str) -> dict[str, Any]:
    """A file as the listing has it."""
    content = model.files[path]
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_digest(content)}
    if path in model.large:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """A safetensors file of zeros."""
    sizes = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1, "F8_E4M3": 1}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    encoded = msgspec.json.encode(header)
    return len(encoded).to_bytes(8, "little") + encoded + bytes(at)


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


def tiny() -> FakeModel:
    """A model in two shards, with the same weights in another format beside them."""
    shards = {
        "model-00001-of-00002.safetensors": safetensors({"model.embed.weight": ("BF16", (100, 8))}),
        "model-00002-of-00002.safetensors": safetensors({"lm_head.weight": ("BF16", (8, 5000))}),
    }
    index = {"weight_map": dict(zip(("model.embed.weight", "lm_head.weight"), shards, strict=True))}
    small = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}).encode(),
        "README.md": b"# A tiny model\n",
    }
    other = {"pytorch_model.bin": b"the same again", "original/params.json": b"{}"}
    return FakeModel({**small, **shards, **other}, large=frozenset({*shards, "pytorch_model.bin"}))
