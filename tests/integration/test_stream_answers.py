"""What a worker and a scorer on a real Kafka answer: fields, headers, deletions, dead letters, logs and metrics."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from schemas.headers import source_headers
from schemas.records import Embedding, Score, Sentence, Source
from streams.records import Headers
from streams.testing import PublishedRecord
from tests.support.kafka import HasBrokers, unique
from tests.support.stream import CODEC, PATIENCE, Program, Stream, wait_until

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass(frozen=True)
class Running:
    """A stream with a worker and a scorer, shared by the tests here: they use ids and keys of their own."""

    stream: Stream
    worker: Program
    scorer: Program

    def ask(self, *, key: bytes | None = None, headers: Headers = (), **fields: Any) -> str:
        """Sends a sentence; returns its id."""
        sentence = Sentence(**{"id": unique("s"), "text": "Hello, world.", **fields})
        self.put(CODEC.encode(sentence, "any"), key=key, headers=headers)
        return sentence.id

    def put(self, value: bytes | None, topic: str | None = None, **more: Any) -> PublishedRecord:
        """Sends bytes."""
        [sent] = self.stream.send([{"value": value, **more, "headers": list(more.get("headers", ()))}], topic)
        return sent

    def embeddings(self, *ids: str) -> list[tuple[PublishedRecord, Embedding]]:
        """The embeddings of these sentences, once everything sent is finished."""
        self.stream.finish()
        return [(record, found) for record, found in self.stream.embeddings() if found.sentence_id in ids]

    def embedding(self, sentence_id: str) -> tuple[PublishedRecord, Embedding]:
        """The one embedding of a sentence."""
        [found] = self.embeddings(sentence_id)
        return found

    def scores(self, *ids: str) -> list[tuple[PublishedRecord, Score]]:
        """The scores of these sentences, once everything sent is finished."""
        self.finish()
        return [(record, found) for record, found in self.stream.scores() if found.sentence_id in ids]

    def dead_letter(self, value: bytes | None) -> tuple[PublishedRecord, dict[str, bytes | None]]:
        """The one dead letter with this value, and its headers."""
        self.finish()
        [letter] = [letter for letter in self.stream.dead_letters() if letter.value == value]
        return letter, dict(letter.headers)

    def finish(self) -> None:
        """Waits until worker and scorer have committed everything."""
        self.stream.finish()
        self.stream.finish_scores()

    def latest(self, topic: str) -> dict[bytes | None, bytes | None]:
        """What a compacted topic says in the end: key -> last value."""
        return {record.key: record.value for record in self.stream.read(topic)}


@pytest.fixture(scope="module")
def everything(kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker and a scorer that are ready."""
    with Stream(kafka.bootstrap_servers, tmp_path_factory.mktemp("stream"), commit_interval=0.05) as stream:
        worker, scorer = stream.start("worker"), stream.start("score")
        yield Running(stream, worker.ready(), scorer.ready())
        worker.stop()
        scorer.stop()


@pytest.fixture
def running(everything: Running) -> Iterator[Running]:
    """The shared stream; what its processes log during a test is shown if the test fails."""
    logs = {program: len(program.log.read_text()) for program in (everything.worker, everything.scorer)}
    yield everything
    for program, size in logs.items():
        print(f"--- what was logged to {program.log}\n{program.log.read_text()[size:][-4000:]}")


def test_an_embedding_says_how_it_was_made(running: Running) -> None:
    """Tokens are counted, nothing is cut, and the vector is of unit length with the model's dimensions."""
    _, embedding = running.embedding(running.ask(text="One two three."))
    assert (embedding.token_count, embedding.truncated, embedding.dimensions) == (3, False, 384)
    assert (embedding.model, embedding.revision, embedding.precision) == ("deterministic", "1", "float32")
    assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-6)


def test_over_long_text_is_cut_and_flagged(running: Running) -> None:
    """A text with more tokens than the model reads is truncated, and the result says so."""
    _, embedding = running.embedding(running.ask(text=" ".join(map(str, range(300)))))
    assert (embedding.token_count, embedding.truncated) == (256, True)


def test_a_shortened_vector_is_the_head_of_the_full_one(running: Running) -> None:
    """`dimensions` keeps the first values, and makes them unit length again."""
    full, short = running.ask(text="The same."), running.ask(text="The same.", dimensions=50)
    head = running.embedding(full)[1].vector[:50]
    _, embedding = running.embedding(short)
    assert embedding.dimensions == 50
    np.testing.assert_allclose(embedding.vector, head / np.linalg.norm(head), rtol=1e-5)


def test_results_carry_on_what_their_request_said(running: Running) -> None:
    """Headers nobody knows pass through in order, repeats too; the request's own are not copied."""
    mine = [("tag", b"a"), ("tag", b"b"), ("none", None), ("binary", b"\xff\x00"), ("ümlaut", "ü".encode())]
    ours = [("deadline", b"99999999999999"), ("content-type", b"text/x"), ("correlation-id", b"7"), ("ce_id", b"x")]
    asked = running.ask(headers=[*ours[:2], *mine, *ours[2:]])
    record, _ = running.embedding(asked)
    [(score, _)] = running.scores(asked)
    assert list(record.headers[6:]) == mine
    assert list(score.headers[6:]) == mine


def test_results_are_cloud_events(running: Running) -> None:
    """Embeddings and scores have the headers of CloudEvents in binary mode."""
    asked = running.ask()
    record, embedding = running.embedding(asked)
    [(score_record, score)] = running.scores(asked)
    for found, made, kind in ((record, embedding, "Embedding"), (score_record, score, "Score")):
        headers = dict(found.headers)
        assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", headers.pop("ce_time") or b"")
        assert headers == {
            "ce_specversion": b"1.0",
            "ce_id": made.id.encode(),
            "ce_type": f"sentence_streams.{kind}".encode(),
            "ce_source": f"/sentence-streams/{running.stream.settings.topic_requests}".encode(),
            "content-type": b"application/avro",
        }


def test_a_trace_goes_on(running: Running) -> None:
    """Each step of the stream keeps the trace id and the flags, and is a span of its own."""
    asked = running.ask(headers=[("traceparent", TRACE)])
    record, _ = running.embedding(asked)
    [(score, _)] = running.scores(asked)
    parents = [TRACE, *(dict(found.headers)["traceparent"] or b"" for found in (record, score))]
    assert {(parent[:35], parent[-3:]) for parent in parents} == {(TRACE[:35], b"-01")}
    assert len({parent[36:52] for parent in parents}) == 3


def test_the_same_sentence_has_the_same_id_wherever_it_comes_from(running: Running) -> None:
    """The id of an embedding depends on sentence and model alone, not on topic, offset or lane."""
    values = [CODEC.encode(Sentence(id=f"same-{number}", text=f"Same {number}."), "any") for number in range(100)]
    interactive = running.stream.settings.topic_interactive
    running.stream.send({"value": value} for value in values)
    running.stream.send(({"value": value} for value in values), interactive)
    running.finish()
    ids: dict[str, list[str]] = {}
    for _, embedding in running.stream.embeddings():
        if embedding.sentence_id.startswith("same-"):
            ids.setdefault(embedding.sentence_id, []).append(embedding.id)
    assert len(ids) == 100
    assert all(len(found) == 2 and len(set(found)) == 1 for found in ids.values())


def test_a_replay_keeps_its_original_source(running: Running) -> None:
    """A record that says where it was first read has results that say the same, in the record and not in headers."""
    source = Source("first.topic", 5, 1234, 1_700_000_000_000)
    asked = running.ask(headers=[*source_headers(source), ("tag", b"a")])
    [(score_record, score)], (record, embedding) = running.scores(asked), running.embedding(asked)
    assert embedding.source == score.source == source
    for found in (record, score_record):
        assert dict(found.headers)["ce_source"] == b"/sentence-streams/first.topic"
        assert found.headers[6:] == (("tag", b"a"),)


@pytest.mark.parametrize("key", [b"a key", b"\xff\x00", b""])
def test_a_deletion_upstream_deletes_downstream(running: Running, key: bytes) -> None:
    """A tombstone on a request topic is one on the embeddings and on the scores of its key."""
    asked = running.ask(key=key)
    [(score, _)] = running.scores(asked)
    embeddings, scores = (running.stream.settings.topic_embeddings, running.stream.settings.topic_scores)
    assert running.latest(embeddings)[key] is not None
    running.put(None, key=key, headers=[("tag", b"gone"), ("traceparent", TRACE)])
    running.finish()
    assert running.latest(embeddings)[key] is None
    assert running.latest(scores)[score.key] is None
    [tombstone] = [record for record in running.stream.read(embeddings) if record.key == key and record.value is None]
    assert dict(tombstone.headers)["tag"] == b"gone"


def test_a_record_without_key_and_value_is_a_dead_letter(running: Running) -> None:
    """It asks for a deletion and does not say of what."""
    sent = running.put(None, headers=[("tag", b"a")])
    letter, headers = running.dead_letter(None)
    assert (letter.key, letter.headers[0]) == (None, ("tag", b"a"))
    assert headers["reason"] == b"invalid-field"
    assert headers["__connect.errors.offset"] == str(sent.offset).encode()


def test_each_sentence_gets_one_score(running: Running) -> None:
    """A score names its sentence, has all labels, and its key is that of the embedding and the scorer's name."""
    asked = running.ask(key=b"k", scorers=("similarity",), metadata={"a": "1"})
    [(record, score)] = running.scores(asked)
    assert record.key == b"k:similarity"
    assert (score.scorer, score.metadata) == ("similarity", {"a": "1"})
    assert score.score == score.labels[score.label] == max(score.labels.values())
    assert score.source == running.embedding(asked)[1].source


def test_an_unknown_scorer_makes_a_dead_letter_of_the_embedding(running: Running) -> None:
    """The scorer refuses what names a scorer it does not have, in its own group's name; the embedding stays."""
    record, embedding = running.embedding(running.ask(scorers=("nobody",)))
    _, headers = running.dead_letter(record.value)
    assert headers["reason"] == b"unknown-scorer"
    assert headers["kafka_dlt-original-consumer-group"] == f"{running.stream.settings.group}-score".encode()
    assert running.scores(embedding.sentence_id) == []


def test_the_largest_request_is_answered_or_a_dead_letter(running: Running) -> None:
    """Results and dead letters of a request as large as its topic allows fit theirs, with all their headers."""
    most = running.stream.settings.max_request_bytes
    noise = np.random.default_rng(1)
    headers = [(f"h{number}", noise.bytes(1000)) for number in range(50)]
    asked = running.ask(text="".join(map(chr, noise.integers(0x4E00, 0x9FFF, (most - 60_000) // 3))), headers=headers)
    assert running.embedding(asked)[1].dimensions == 384
    assert len(running.scores(asked)) == 1
    rubbish = b"\x02" + noise.bytes(most - 60_000)
    running.put(rubbish, headers=headers)
    assert running.dead_letter(rubbish)[1]["reason"] == b"bad-bytes"


def test_only_committed_transactions_are_read(running: Running) -> None:
    """Records of an aborted transaction are never embedded, and commits pass the markers: the lag ends at 0."""
    stream, name = running.stream, unique("tx")
    producer = Producer({"bootstrap.servers": stream.servers, "transactional.id": name, "log_level": 0})
    producer.init_transactions(PATIENCE)
    for transaction in range(6):
        producer.begin_transaction()
        for number in range(transaction * 100, transaction * 100 + 100):
            value = CODEC.encode(Sentence(id=f"{name}-{number}", text=f"Text {number}."), "any")
            producer.produce(stream.settings.topic_requests, value, partition=number % 4)
        producer.flush()
        producer.abort_transaction() if transaction % 2 else producer.commit_transaction()
    expected = sorted(f"{name}-{number}" for number in range(600) if number // 100 % 2 == 0)
    stream.finish()
    found = [embedding.sentence_id for _, embedding in stream.embeddings()]
    assert sorted(sentence for sentence in found if sentence.startswith(name)) == expected


def test_logs_name_records_and_never_their_texts(running: Running) -> None:
    """A dead letter's log line has its coordinates and the reason; no text is in any log unless asked for."""
    asked = running.ask(text="Xylophone secretly")
    assert running.embeddings(asked)
    refused = CODEC.encode(Sentence(id="secret-id", text="Xylophone secretly", model="other"), "any")
    sent = running.put(refused)
    running.dead_letter(refused)
    [line] = [
        line
        for line in running.worker.lines()
        if line["event"] == "dead-letter" and (line["partition"], line["offset"]) == (sent.partition, sent.offset)
    ]
    assert (line["topic"], line["stage"], line["reason"]) == (sent.topic, "validate", "unknown-model")
    for program in (running.worker, running.scorer):
        assert "Xylophone" not in program.log.read_text()


def test_metrics_tell_what_happened(running: Running) -> None:
    """Records are counted by lane and outcome, dead letters by stage and reason; lag is per lane and partition."""
    before = running.worker.metrics()
    running.ask(text="Never said.")
    running.put(b"!")
    running.finish()
    after = running.worker.metrics()

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grew('streams_records_total{lane="bulk",outcome="answered"}') == 1
    assert grew('streams_records_total{lane="bulk",outcome="dead_letter"}') == 1
    assert grew('streams_dead_letters_total{reason="bad-bytes",stage="decode"}') == 1
    assert grew('streams_batch_tokens_total{kind="text",stage="embed"}') == 2
    assert grew('streams_batch_tokens_total{kind="padding",stage="embed"}') == 0
    assert grew('streams_batch_rows_count{stage="embed"}') == 1
    assert all(grew(f'streams_stage_seconds_count{{stage="embed",step="{step}"}}') for step in STEPS)
    assert grew('streams_commits_total{outcome="done"}') >= 1
    lags = [f'streams_lag_records{{lane="bulk",partition="{number}"}}' for number in range(4)]
    wait_until(lambda: [running.worker.metrics()[name] for name in lags] == [0] * 4, "the gauges of lag are at 0")
    assert {f'streams_lag_tokens{{lane="interactive",partition="{number}"}}' for number in range(4)} <= after.keys()
    assert {'streams_queue_records{lane="bulk"}', 'streams_queue_tokens{lane="interactive"}'} <= after.keys()
    [model] = [name for name in after if name.startswith("streams_model_info")]
    assert 'model="deterministic"' in model
    assert after["streams_rebalances_total"] >= 1


STEPS = ("prepare", "queue", "run", "publish", "total")


def test_the_scorer_has_metrics_of_its_own(running: Running) -> None:
    """A scorer's page counts embeddings as its records."""
    name = 'streams_records_total{lane="bulk",outcome="answered"}'
    before = running.scorer.metrics()[name]
    asked = [running.ask() for _ in range(3)]
    assert len(running.scores(*asked)) == 3
    assert running.scorer.metrics()[name] - before == 3
