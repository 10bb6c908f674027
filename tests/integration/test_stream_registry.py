"""The stream with a real schema registry: Confluent's framing in and out, and a registry that goes away."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from tests.support.kafka import HasBrokers
from tests.support.stream import Stream, encoded, wait_until

#: A producer's own idea of a sentence: no optional fields, another order, one field that we do not know.
WRITER = json.dumps(
    {
        "type": "record",
        "name": "Sentence",
        "namespace": "sentence_streams",
        "fields": [
            {"name": "text", "type": "string"},
            {"name": "mood", "type": "string", "default": ""},
            {"name": "id", "type": "string"},
        ],
    }
)


class Front:
    """Stands before a registry at `url`; while `away` it answers 503 to everything."""

    def __init__(self, behind: str) -> None:
        self.away = False
        origin, self._path = behind.rsplit("/apis", 1)
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
                status, data = (503, b"{}") if front.away else self._ask(body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def _ask(self, body: bytes | None) -> tuple[int, bytes]:
                headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                try:
                    with urlopen(Request(origin + self.path, body, headers, method=self.command), timeout=20) as answer:
                        return answer.status, answer.read()
                except HTTPError as error:
                    with error:
                        return error.code, error.read()

            def log_message(self, format: str, *args: Any) -> None:
                """Keeps requests off the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/apis{self._path}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        """Stops answering for good."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def front(registry_url: str) -> Iterator[Front]:
    """A registry that can be made to go away."""
    front = Front(registry_url)
    yield front
    front.close()


@pytest.fixture
def registry(registry_url: str) -> Iterator[SchemaRegistryClient]:
    """A client that is not ours, and for which the registry is always there."""
    with SchemaRegistryClient({"url": registry_url}) as registry:
        yield registry


@pytest.fixture
def stream(kafka: HasBrokers, front: Front, tmp_path: Path) -> Iterator[Stream]:
    """A stream whose worker and scorer ask the registry."""
    with Stream(kafka.bootstrap_servers, tmp_path, schema_registry_url=front.url) as stream:
        yield stream


def test_records_in_and_out_are_in_the_registry(stream: Stream, front: Front, registry: SchemaRegistryClient) -> None:
    """What another's serialiser wrote is read, and what we write another's deserialiser reads.

    While the registry is away the records wait: nothing is lost and nothing is a dead letter.
    """
    topic = stream.settings.topic_requests
    serialise = AvroSerializer(registry, WRITER)
    value = serialise(
        {"id": "framed", "text": "Hello.", "mood": "glad"}, SerializationContext(topic, MessageField.VALUE)
    )
    front.away = True
    worker, scorer = stream.start("worker"), stream.start("score")
    stream.send([{"value": value}, {"value": encoded(1)}])
    worker.ready()
    wait_until(lambda: any(line["event"] == "waiting" for line in worker.lines()), "the worker waits for the registry")
    assert stream.lag() == 2
    front.away = False
    scorer.ready()
    stream.finish()
    stream.finish_scores()
    assert stream.dead_letters() == []
    for name in (stream.settings.topic_embeddings, stream.settings.topic_scores):
        deserialise, context = AvroDeserializer(registry), SerializationContext(name, MessageField.VALUE)
        records = stream.read(name)
        found = [deserialise(record.value, context)["sentence_id"] for record in records]
        assert sorted(found) == ["framed", "s-1"]
        [version] = registry.get_versions(f"{name}-value")
        registered = registry.get_version(f"{name}-value", version).schema_id
        assert {record.value[:5] for record in records if record.value} == {b"\0" + registered.to_bytes(4, "big")}


def test_ids_that_the_registry_does_not_have_or_that_are_no_sentence_are_dead_letters(
    stream: Stream, registry: SchemaRegistryClient
) -> None:
    """An unknown id, and the id of something else, are this record's own fault."""
    subject = f"{stream.settings.topic_requests}-value"
    other = registry.register_schema(subject, Schema('{"type": "array", "items": "null"}', "AVRO"))
    framed = [b"\x00" + number.to_bytes(4, "big") + b"\x02\x00" for number in (other, 2_000_000)]
    stream.send({"value": value} for value in framed)
    stream.start().ready()
    stream.finish()
    reasons = {letter.value: dict(letter.headers)["reason"] for letter in stream.dead_letters()}
    assert reasons == {framed[0]: b"unsafe-schema", framed[1]: b"unknown-schema"}
