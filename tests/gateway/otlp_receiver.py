"""Two real OTLP receivers, over gRPC and over HTTP, which keep the spans that they are sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

Request = trace_service_pb2.ExportTraceServiceRequest
Response = trace_service_pb2.ExportTraceServiceResponse


def value_of(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None


@dataclass(frozen=True)
class Span:
    """One span as it was received; times are seconds since the epoch, `resource` the resource's attributes."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    start: float
    end: float
    attributes: dict[str, Any]
    events: dict[str, float]
    failed: bool
    state: str
    resource: dict[str, Any]
    raw: Any = field(repr=False)


@dataclass
class Receiver:
    """What was received, oldest first. While `open` is cleared, whoever sends is left to wait."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    def take(self, request: Any, headers: dict[str, str]) -> None:
        self.open.wait(30)
        self.headers.append(headers)
        for group in request.resource_spans:
            resource = {one.key: value_of(one.value) for one in group.resource.attributes}
            self.spans += [_span(one, resource) for scope in group.scope_spans for one in scope.spans]

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of one trace, by their names."""
        return {span.name: span for span in self.spans if span.trace_id == trace_id}


def _span(raw: Any, resource: dict[str, Any]) -> Span:
    return Span(
        raw.name,
        raw.kind,
        raw.trace_id.hex(),
        raw.span_id.hex(),
        raw.parent_span_id.hex(),
        raw.start_time_unix_nano / 1e9,
        raw.end_time_unix_nano / 1e9,
        {one.key: value_of(one.value) for one in raw.attributes},
        {one.name: one.time_unix_nano / 1e9 for one in raw.events},
        raw.status.code == raw.status.STATUS_CODE_ERROR,
        raw.trace_state,
        resource,
        raw,
    )


@contextmanager
def grpc_receiver(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.open.set()

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            receiver.take(request, dict(context.invocation_metadata()))
            return Response()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    receiver.url = f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.stop(None).wait()


@contextmanager
def http_receiver(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            if found:
                receiver.take(Request.FromString(body), {name.lower(): text for name, text in self.headers.items()})
            answer = Response().SerializeToString()
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    serving.start()
    try:
        yield receiver
    finally:
        receiver.open.set()
        server.shutdown()
        server.server_close()
        serving.join()


RECEIVERS = {"grpc": grpc_receiver, "http/protobuf": http_receiver}
