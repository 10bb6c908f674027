"""Producers and consumers that are not ours: kcat and Kafka's own console consumer, bytes by the `avro` package."""

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import pytest

from schemas.contracts import FILES
from schemas.records import Embedding, Score, Sentence
from tests.support.java import JVM, java
from tests.support.kafka import Kafka
from tests.support.stream import Stream

SCHEMAS = Path(__file__).parents[2] / "schemas"
TEXTS = ["A cold wind came down from the hills.", "Ein kalter Wind kam von den Hügeln.", "山から冷たい風が吹いた。"]


def contract(kind: type) -> str:
    """A contract, as in the file that users copy."""
    return (SCHEMAS / FILES[kind]).read_text(encoding="utf-8")


def frame(kind: type) -> bytes:
    """Avro's single-object header: C3 01, and the CRC-64-AVRO fingerprint of the schema."""
    # The package forgets that the canonical form has no logical types and writes {"type":"long"} for "long".
    plain = json.loads(contract(kind), object_hook=lambda each: {k: v for k, v in each.items() if k != "logicalType"})
    return b"\xc3\x01" + avro.schema.parse(json.dumps(plain)).fingerprint("CRC-64-AVRO")


def written(record: dict[str, Any]) -> bytes:
    """A Sentence by the `avro` package."""
    out = io.BytesIO()
    avro.io.DatumWriter(avro.schema.parse(contract(Sentence))).write(record, avro.io.BinaryEncoder(out))
    return frame(Sentence) + out.getvalue()


def read(kind: type, value: bytes) -> Any:
    """A record by the `avro` package, the whole value used."""
    source = io.BytesIO(value)
    assert source.read(10) == frame(kind)
    record = avro.io.DatumReader(avro.schema.parse(contract(kind))).read(avro.io.BinaryDecoder(source))
    assert source.read() == b""
    return record


def sentence(number: int, text: str) -> dict[str, Any]:
    """A sentence with every field, as the `avro` package wants it."""
    return {
        "id": f"interop-{number}",
        "text": text,
        "model": None,
        "dimensions": None,
        "scorers": [],
        "overflow": "truncate",
        "metadata": {"from": "elsewhere"},
        "query": None,
        "encoding": "float32",
    }


@pytest.fixture(scope="module")
def stream(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    """A stream with a worker and a scorer."""
    with Stream(kafka.bootstrap_servers, tmp_path_factory.mktemp("interop"), partitions=1) as stream:
        worker, scorer = stream.start("worker"), stream.start("score")
        worker.ready()
        scorer.ready()
        yield stream


def run(*command: str) -> bytes:
    """Standard output of a program that succeeds."""
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def kcat_read(kcat: str, servers: str, topic: str) -> list[tuple[bytes, bytes]]:
    """Key and value of every record of a topic of one partition, by kcat."""
    # Lengths first, as a line of text: a value may hold any byte.
    out = io.BytesIO(run(kcat, "-C", "-b", servers, "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%K %S\n%k%s"))
    lengths = (map(int, line.split()) for line in iter(out.readline, b""))
    return [(out.read(key), out.read(value)) for key, value in lengths]


def test_kcat_and_avro_speak_with_the_stream(stream: Stream, tmp_path: Path) -> None:
    """Sentences that the `avro` package wrote and kcat produced come out so that kcat and `avro` can read them."""
    kcat = shutil.which("kcat")
    if not kcat:
        pytest.skip("there is no `kcat` on this machine (Debian has it as a package)")
    for number, text in enumerate(TEXTS):
        value = tmp_path / f"{number}.avro"
        value.write_bytes(written(sentence(number, text)))
        options = ["-k", f"key-{number}", "-H", "origin=kcat", "-H", "origin=again"]
        run(kcat, "-P", "-b", stream.servers, "-t", stream.settings.topic_requests, *options, str(value))
    stream.finish()
    stream.finish_scores()
    embeddings = kcat_read(kcat, stream.servers, stream.settings.topic_embeddings)
    assert [key for key, _ in embeddings] == [b"key-0", b"key-1", b"key-2"]
    for number, (_, value) in enumerate(embeddings):
        record = read(Embedding, value)
        assert (record["sentence_id"], record["text"]) == (f"interop-{number}", TEXTS[number])
        assert record["metadata"] == {"from": "elsewhere"}
        assert sum(part * part for part in record["vector"]) == pytest.approx(1, abs=1e-5)
    scores = kcat_read(kcat, stream.servers, stream.settings.topic_scores)
    assert {key for key, _ in scores} == {b"key-0:similarity", b"key-1:similarity", b"key-2:similarity"}
    assert {read(Score, value)["sentence_id"] for _, value in scores} == {f"interop-{n}" for n in range(3)}
    [first, *_] = stream.read(stream.settings.topic_embeddings)
    assert [pair for pair in first.headers if pair[0] == "origin"] == [("origin", b"kcat"), ("origin", b"again")]


def test_kafkas_own_consumer_reads_the_results(kafka: Kafka, stream: Stream) -> None:
    """The Java console consumer prints key, headers and bytes of a result; `avro` decodes the bytes."""
    if not isinstance(kafka, Kafka):
        pytest.skip("the Java console consumer needs Kafka's jars: Java and Maven, not a container")
    stream.send([{"key": b"the key", "value": written(sentence(9, TEXTS[0]))}])
    stream.finish()
    place = str(stream.read(stream.settings.topic_embeddings)[-1].offset)
    options = ["print.key=true", "print.headers=true", "key.separator=|||", "headers.separator=;"]
    command = [java(), *JVM, "-cp", kafka.classpath, "org.apache.kafka.tools.consumer.ConsoleConsumer"]
    command += ["--bootstrap-server", stream.servers, "--topic", stream.settings.topic_embeddings]
    command += ["--partition", "0", "--offset", place, "--max-messages", "1", "--isolation-level", "read_committed"]
    out = run(*command, *(part for option in options for part in ("--property", option)))
    headers, key, value = out.removesuffix(b"\n").split(b"|||", 2)
    assert b"ce_type:sentence_streams.Embedding" in headers.split(b";")
    assert key == b"the key"
    assert read(Embedding, value)["sentence_id"] == "interop-9"
