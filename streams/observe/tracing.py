"""Traces: what became of a record, told to an OpenTelemetry collector. Off, and free, unless a setting says where.

A record whose `traceparent` is sampled gets a span from its fetch to its receipt, and each record it caused one whose
id that record's own `traceparent` carries: so worker, scorer and bridge find each other through Kafka's headers alone.
Spans are made from the timings a record carries anyway, once it is finished: nothing is added to its way.
"""

import socket
import time
from collections.abc import Iterable, Sequence
from threading import Thread
from typing import Any, NamedTuple, Protocol

from schemas.errors import Reject
from schemas.headers import traceparent
from streams.observe.release import release
from streams.records import Headers, Outgoing, Record
from streams.settings import Settings, SettingsError

#: Seconds that spans which could not be sent yet get when a process leaves.
CLOSE_TIMEOUT = 2.0
#: Seconds until a collector that does not answer is left alone with a batch of spans.
SEND_TIMEOUT = 5.0


class Finished(Protocol):
    """What a span tells of a finished record; times are monotonic seconds."""

    record: Record
    refused: Reject | None
    arrived: float
    started: float
    settled: float

    @property
    def outputs(self) -> Iterable[Outgoing] | None:
        """What it caused."""
        ...


class Trace(NamedTuple):
    """A W3C trace context: whose trace, which span in it, and whether anybody records it."""

    trace_id: int
    span_id: int
    sampled: bool

    @classmethod
    def of(cls, headers: Headers) -> "Trace | None":
        """Returns what a record's headers say; None where they say nothing valid."""
        return cls.parse(traceparent(headers))

    @classmethod
    def parse(cls, value: bytes | None) -> "Trace | None":
        """Returns what a valid `traceparent` says; None for None."""
        if value is None:
            return None
        return cls(int(value[3:35], 16), int(value[36:52], 16), bool(int(value[53:55], 16) & 1))


class Tracing(Protocol):
    """Where spans go."""

    def finished(self, stage: str, items: Sequence[Finished]) -> None:
        """Tells of records that one partition acknowledged together; call it on the event loop."""
        ...

    def answered(self, route: str, status: int, own: bytes, parent: bytes | None, seconds: float) -> None:
        """Tells of an HTTP request that took so long: `own` and `parent` are its own and its caller's traceparent."""
        ...

    def close(self) -> None:
        """Sends what is left, for `CLOSE_TIMEOUT` seconds at most."""
        ...


class NoTracing:
    """Tells nobody."""

    def finished(self, stage: str, items: Sequence[Finished]) -> None:
        """Does nothing."""

    def answered(self, route: str, status: int, own: bytes, parent: bytes | None, seconds: float) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def open_tracing(settings: Settings, component: str) -> Tracing:
    """Returns where spans of a component go, by the setting `otlp_endpoint`; raises SettingsError.

    The OpenTelemetry packages are imported only here.
    """
    if settings.otlp_endpoint is None:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "STREAMS_OTLP_ENDPOINT: expected the OpenTelemetry packages, too: pip install 'sentence-streams[telemetry]'"
        ) from None
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=SEND_TIMEOUT)
    return OtlpTracing(BatchSpanProcessor(exporter), component)


class OtlpTracing:
    """Makes spans with OpenTelemetry's SDK and hands them to a span processor."""

    def __init__(self, processor: Any, component: str) -> None:
        """`processor`: an opentelemetry `SpanProcessor`; it is closed with this."""
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        class Ids(RandomIdGenerator):
            """Random ids, but for the span that was promised to somebody already."""

            promised: Trace | None = None

            def generate_trace_id(self) -> int:
                return self.promised.trace_id if self.promised else super().generate_trace_id()

            def generate_span_id(self) -> int:
                promised, self.promised = self.promised, None
                return promised.span_id if promised else super().generate_span_id()

        self._api: Any = trace
        self._ids = Ids()
        resource = {
            "service.name": f"sentence-streams-{component}",
            "service.version": release(),
            "service.instance.id": socket.gethostname(),
        }
        self._processor = processor
        provider = TracerProvider(resource=Resource.create(resource), id_generator=self._ids, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("sentence-streams", release())

    def finished(self, stage: str, items: Sequence[Finished]) -> None:
        """Makes the spans of the records among `items` whose trace is sampled."""
        now, offset = time.monotonic(), time.time() - time.monotonic()
        for item in items:
            parent = Trace.of(item.record.headers)
            if parent is not None and parent.sampled:
                self._record(stage, item, parent, offset, now)

    def _record(self, stage: str, item: Finished, parent: Trace, offset: float, now: float) -> None:
        record, kind, refused = item.record, self._api.SpanKind, item.refused
        span = self._tracer.start_span(
            f"{stage} {record.topic}",
            self._context(parent),
            kind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
            },
            start_time=_nanoseconds(item.arrived, offset),
        )
        span.add_event("started", timestamp=_nanoseconds(item.started, offset))  # before it: queued; after it: at work
        span.add_event("settled", timestamp=_nanoseconds(item.settled, offset))  # after it: waiting for the receipt
        if refused is not None:
            span.set_attribute("error.type", refused.reason)
            span.set_status(self._api.StatusCode.ERROR)
        own = self._api.set_span_in_context(span)
        for output in item.outputs or ():
            carried = Trace.of(output.headers)
            if carried is not None and carried.span_id != parent.span_id:  # a dead letter carries the record's own
                self._send(output.topic, carried, own, _nanoseconds(item.settled, offset), _nanoseconds(now, offset))
        span.end(_nanoseconds(now, offset))

    def _send(self, topic: str, carried: Trace, own: Any, start: int, end: int) -> None:
        self._ids.promised = carried
        attributes = {
            "messaging.system": "kafka",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
        }
        self._tracer.start_span(f"send {topic}", own, self._api.SpanKind.PRODUCER, attributes, start_time=start).end(
            end
        )

    def answered(self, route: str, status: int, own: bytes, parent: bytes | None, seconds: float) -> None:
        """Makes the span of a request whose trace is sampled; its id is the one in `own`."""
        mine, caller, now = Trace.parse(own), Trace.parse(parent), time.time()
        if mine is None or not mine.sampled:
            return
        self._ids.promised = mine
        attributes: dict[str, str | int] = {"http.route": route, "http.response.status_code": status}
        span = self._tracer.start_span(
            route,
            self._context(caller) if caller else self._api.Context(),
            self._api.SpanKind.SERVER,
            attributes,
            start_time=_nanoseconds(now - seconds),
        )
        if status >= 500:
            span.set_status(self._api.StatusCode.ERROR)
        span.end(_nanoseconds(now))

    def _context(self, trace: Trace) -> Any:
        flags = self._api.TraceFlags(int(trace.sampled))
        context = self._api.SpanContext(trace.trace_id, trace.span_id, True, flags)
        return self._api.set_span_in_context(self._api.NonRecordingSpan(context))

    def close(self) -> None:
        """Sends what is left, and ends the sending thread."""
        closing = Thread(target=self._processor.shutdown, daemon=True)  # it would wait for half a minute
        closing.start()
        closing.join(CLOSE_TIMEOUT)


def _nanoseconds(seconds: float, offset: float = 0.0) -> int:
    return int((seconds + offset) * 1e9)
