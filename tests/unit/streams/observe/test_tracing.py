"""Traces: spans of sampled records only, linked through the headers that records carry."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import InvalidField, Reject
from schemas.headers import TRACEPARENT
from streams.observe.tracing import CLOSE_TIMEOUT, NoTracing, Trace, open_tracing
from streams.records import Outgoing
from streams.settings import SettingsError, load
from streams.testing import PublishedRecord
from tests.support.collector import Collector, collecting

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CHILD = b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
TRACE, PARENT_SPAN, CHILD_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def record(headers: Any = ()) -> PublishedRecord:
    return PublishedRecord(
        topic="in", partition=3, offset=42, timestamp=0, key=b"k", value=b"v", headers=headers, timestamp_type=0
    )


@dataclass
class Item:
    """A finished record that took a second: 0.5 queued, 0.3 at work, 0.2 until the receipt."""

    record: PublishedRecord
    outputs: list[Outgoing] = field(default_factory=list)
    refused: Reject | None = None

    def __post_init__(self) -> None:
        now = time.monotonic()
        self.arrived, self.started, self.settled = now - 1.0, now - 0.5, now - 0.2


def told(*items: Item) -> Collector:
    """What a collector hears of these records."""
    with collecting() as collector:
        tracing = open_tracing(load(otlp_endpoint=collector.endpoint), "embed")
        tracing.finished("embed", items)
        tracing.close()
    return collector


def test_a_record_and_what_it_caused_are_one_trace() -> None:
    """The record's span is a child of its producer's; the result's span has the id that the result's header carries."""
    collector = told(Item(record([(TRACEPARENT, PARENT)]), [Outgoing("out", b"k", b"v", [(TRACEPARENT, CHILD)])]))
    spans = collector.trace(TRACE)
    work, sent = spans["embed: embed in"], spans["embed: send out"]
    assert collector.paths == ["/v1/traces"]
    assert work.parent == PARENT_SPAN
    assert (sent.parent, sent.span_id) == (work.span_id, CHILD_SPAN)
    assert work.attributes["messaging.kafka.offset"] == 42
    assert work.events == ["started", "settled"]
    assert 0.9e9 < work.end - work.start < 60e9


@pytest.mark.parametrize(
    "headers", [(), [(TRACEPARENT, PARENT[:-2] + b"00")], [(TRACEPARENT, b"nonsense")]], ids=["none", "off", "invalid"]
)
def test_a_record_that_nobody_records_has_no_span(headers: Any) -> None:
    """Without a trace, or with one that is not sampled, nothing is sent at all."""
    assert not told(Item(record(headers))).paths


def test_a_refused_record_is_an_error_and_its_dead_letter_no_new_span() -> None:
    """A dead letter carries the record's own headers, and so the producer's span id, which is taken."""
    headers = [(TRACEPARENT, PARENT)]
    letter = Outgoing("dead", b"k", b"v", headers)
    (span,) = told(Item(record(headers), [letter], InvalidField("no"))).spans
    assert span.failed
    assert span.attributes["error.type"] == InvalidField.reason
    assert span.span_id != PARENT_SPAN


def test_a_request_is_the_parent_of_what_it_asks_the_stream() -> None:
    """The span of an HTTP request has the id that its records carry, below its caller's span, or as a root."""
    with collecting() as collector:
        tracing = open_tracing(load(otlp_endpoint=collector.endpoint), "bridge")
        tracing.answered("POST /v1/embeddings", 200, CHILD, PARENT, 0.5)
        tracing.answered("POST /v1/scores", 500, CHILD, None, 0.5)
        tracing.answered("POST /v1/scores", 200, CHILD[:-2] + b"00", None, 0.5)
        tracing.close()
    below, root = collector.spans
    assert (below.trace_id, below.span_id, below.parent, below.failed) == (TRACE, CHILD_SPAN, PARENT_SPAN, False)
    assert (root.trace_id, root.span_id, root.parent, root.failed) == (TRACE, CHILD_SPAN, "", True)


def test_a_collector_that_is_away_holds_nobody_up() -> None:
    """Spans are lost, records are not: finishing and closing go on."""
    tracing = open_tracing(load(otlp_endpoint="http://127.0.0.1:1"), "embed")
    started = time.monotonic()
    tracing.finished("embed", [Item(record([(TRACEPARENT, PARENT)]))])
    tracing.close()
    assert time.monotonic() - started < CLOSE_TIMEOUT + 5


def test_off_costs_not_even_the_import() -> None:
    """Without the setting nothing that makes or sends spans is loaded (FastAPI itself loads the bare API)."""
    assert isinstance(open_tracing(load(), "embed"), NoTracing)
    code = "import sys, agents.app, agents.bridge.app; sys.exit('opentelemetry.sdk.trace' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert done.returncode == 0


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sets the endpoint and lacks the packages is told which to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(SettingsError, match=r"sentence-streams\[telemetry\]"):
        open_tracing(load(otlp_endpoint="http://127.0.0.1:1"), "embed")


def test_a_trace_context_is_read() -> None:
    """Ids and the sampled flag; nothing for nothing."""
    assert Trace.parse(PARENT) == Trace(int(TRACE, 16), int(PARENT_SPAN, 16), True)
    assert Trace.parse(None) is None
