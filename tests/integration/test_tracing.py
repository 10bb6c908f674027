"""One trace from a caller through HTTP and Kafka's headers to worker and scorer, told to a real OTLP server."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.headers import TRACEPARENT, traceparent
from tests.support.collector import Collector, Span, collecting
from tests.support.kafka import Kafka
from tests.support.stream import Stream, encoded, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


def spans(collector: Collector, trace: str, count: int) -> dict[str, Span]:
    """So many spans of a trace, once they came."""
    wait_until(lambda: len(collector.trace(trace)) >= count, f"{count} spans of {trace} came")
    return collector.trace(trace)


@pytest.fixture
def traced(kafka: Kafka, tmp_path: Path) -> Iterator[tuple[Stream, Collector]]:
    """A stream whose processes tell a collector, and the collector."""
    with (
        collecting() as collector,
        Stream(kafka.bootstrap_servers, tmp_path, otlp_endpoint=collector.endpoint) as stream,
    ):
        yield stream, collector


def test_worker_and_scorer_are_linked_by_the_headers(traced: tuple[Stream, Collector]) -> None:
    """Producer, worker and scorer are one chain of spans; a record that is not sampled leaves none."""
    stream, collector = traced
    for program in (stream.start("worker"), stream.start("score")):
        program.ready()
    silent = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"
    stream.send([{"value": encoded(n), "headers": [(TRACEPARENT, text)]} for n, text in enumerate((CALLER, silent))])
    stream.finish()
    stream.finish_scores()
    requests, embeddings = stream.settings.topic_requests, stream.settings.topic_embeddings
    found = spans(collector, TRACE, 4)
    work, sent = found[f"embed: embed {requests}"], found[f"embed: send {embeddings}"]
    score = found[f"score: score {embeddings}"]
    assert work.parent == "00f067aa0ba902b7"
    assert sent.parent == work.span_id
    assert score.parent == sent.span_id
    assert work.start <= sent.start <= score.end
    carried = {traceparent(record.headers) for record in stream.read(embeddings)}
    assert f"00-{TRACE}-{sent.span_id}-01".encode() in carried
    assert not collector.trace("1" * 32)


def test_a_call_and_its_work_are_one_trace(traced: tuple[Stream, Collector]) -> None:
    """The bridge continues its caller's trace, and the worker the bridge's."""
    stream, collector = traced
    stream.start("worker").ready()
    bridge = stream.start("bridge", auth="off").ready()
    request = urllib.request.Request(
        f"{bridge.url}/v1/embeddings",
        json.dumps({"model": "deterministic", "input": "A sentence."}).encode(),
        {"Content-Type": "application/json", "traceparent": CALLER},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    found = spans(collector, TRACE, 3)
    call = found["bridge: POST /v1/embeddings"]
    work = found[f"embed: embed {stream.settings.topic_interactive}"]
    assert call.parent == "00f067aa0ba902b7"
    assert work.parent == call.span_id
    assert found[f"embed: send {stream.settings.topic_replies}"].parent == work.span_id
