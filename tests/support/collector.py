"""An OpenTelemetry collector for tests: takes OTLP over HTTP on loopback and keeps the spans."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    """What the tests look at; ids as lower-case hex, an empty parent for a root, times in nanoseconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, str | int]
    events: list[str]
    failed: bool


class Collector(ThreadingHTTPServer):
    """Listens on a free port; `spans` are those that came, `paths` what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.paths: list[str] = []

    @property
    def endpoint(self) -> str:
        """As the setting `otlp_endpoint` wants it."""
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, trace_id: str) -> dict[str, Span]:
        """The spans of a trace by service and name."""
        return {f"{span.service}: {span.name}": span for span in self.spans if span.trace_id == trace_id}


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.paths.append(self.path)
        self.server.spans += _spans(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        (service,) = [each.value.string_value for each in resource.resource.attributes if each.key == "service.name"]
        for span in [span for scope in resource.scope_spans for span in scope.spans]:
            yield Span(
                service=service.removeprefix("sentence-streams-"),
                name=span.name,
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                attributes={each.key: each.value.string_value or each.value.int_value for each in span.attributes},
                events=[event.name for event in span.events],
                failed=span.status.code == 2,
            )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the block ends."""
    with Collector() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
