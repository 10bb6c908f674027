"""Replays on a real Kafka: the same results once more, nothing old or deleted, live traffic untouched."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.codec import Codec
from schemas.dead_letters import dead_letter_headers
from schemas.errors import BadBytes, Expired
from schemas.records import Embedding, Sentence, Source
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.replay import InProcess
from streams.testing import DeterministicEmbedder
from tests.support.commands import Commands, outcome
from tests.support.kafka import HasBrokers, unique
from tests.support.stream import Stream, wait_until

CODEC = Codec()


@pytest.fixture
def stream(kafka: HasBrokers, tmp_path: Path) -> Iterator[Stream]:
    """A stream whose commands answer soon."""
    with Stream(kafka.bootstrap_servers, tmp_path, session_timeout=6) as stream:
        yield stream


@pytest.fixture
def run(stream: Stream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Runs commands on the stream."""
    return Commands(stream, monkeypatch, capsys)


def request(number: int, key: str | None = None, **more: Any) -> dict[str, Any]:
    """What to produce for a sentence."""
    value = CODEC.encode(Sentence(id=f"s-{number}", text=f"Sentence {number}."), "any")
    return {"key": key and key.encode(), "value": value, **more}


def compacted(stream: Stream, topic: str) -> dict[bytes | None, Embedding]:
    """What is left of a topic of embeddings after compaction."""
    last = {record.key: record.value for record in stream.read(topic)}
    return {key: CODEC.decode(Embedding, value) for key, value in last.items() if value is not None}


def catch_up(stream: Stream) -> None:
    """Commits all requests in the name of the live group."""
    topic = stream.settings.topic_requests
    consumer = Consumer({"bootstrap.servers": stream.servers, "group.id": stream.settings.group, "log_level": 0})
    try:
        parts = [TopicPartition(topic, n) for n in range(4)]
        ends = [TopicPartition(topic, part.partition, consumer.get_watermark_offsets(part)[1]) for part in parts]
        consumer.commit(offsets=ends, asynchronous=False)
    finally:
        consumer.close()


def embedded(stream: Stream, requests: list[dict[str, Any]], **settings: Any) -> None:
    """Has a worker embed requests, and leave."""
    stream.send(requests)
    worker = stream.start(**settings).ready()
    stream.finish()
    worker.stop()


def test_a_full_replay_gives_the_same_results(stream: Stream, run: Commands) -> None:
    """Keys, ids, sources and vectors are as before; what was superseded or deleted stays so; live offsets stay, too."""
    headers = [("deadline", b"99999999999999"), ("reply-topic", stream.settings.topic_replies.encode()), ("tag", b"a")]
    requests = [
        *(request(number, f"k-{number}", headers=headers) for number in range(200)),
        *(request(number) for number in range(200, 220)),
        *(request(number + 1000, f"k-{number}") for number in range(50)),
        *({"key": b"k-%d" % number, "value": None} for number in range(50, 60)),
    ]
    embedded(stream, requests)
    before, ends = compacted(stream, stream.settings.topic_embeddings), len(stream.embeddings())
    topic = stream.settings.topic_requests
    assert len(before) == 190 + 20

    dry = run("replay", "--topic", "requests", "--json", "--rate", "100")
    total = dry.json["total"]
    assert (total["records"], total["superseded"], total["moving"], dry.json["seconds"]) == (280, 60, 220, 2.2)
    assert "nothing was sent" in dry.err
    assert not stream.read(stream.settings.topic_replay)

    done = run("replay", "--topic", topic, "--execute", "--json", "--rate", "10000")
    assert (done.code, done.json["executed"]["moved"]) == (0, 220)
    copies = stream.read(stream.settings.topic_replay)
    assert {name for copy in copies for name, _ in copy.headers} == {
        "tag",
        *(f"source-{each}" for each in ("topic", "partition", "offset", "timestamp")),
    }
    replayer = stream.start(lanes="replay").ready()
    wait_until(
        lambda: stream.lag(stream.settings.topic_replay, f"{stream.settings.group}-replay") == 0, "the lane is empty"
    )
    replayer.stop()
    assert len(stream.embeddings()) == ends + 210
    after = compacted(stream, stream.settings.topic_embeddings)
    assert after.keys() == before.keys()
    for key, old in before.items():
        assert (after[key].id, after[key].source) == (old.id, old.source)
        assert float(np.dot(after[key].vector, old.vector)) >= 0.99999
    assert stream.lag() == 0


def test_a_replay_that_is_killed_and_interrupted_sends_each_record_once(stream: Stream, run: Commands) -> None:
    """After SIGKILL, SIGINT and a last whole run of the same replay, the lane holds each record exactly once."""
    requests = [request(number, f"k-{number}") for number in range(2_000)]
    stream.send(requests)
    command = ("replay", "--topic", "requests", "--execute", "--rate")

    def sent() -> int:
        return len(stream.read(stream.settings.topic_replay))

    for sign, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = sent()
        process = run.begin(*command, 400)
        wait_until(lambda before=before: sent() > before, "it sends something")
        process.send_signal(sign)
        assert outcome(process).code == code
    assert 0 < sent() < len(requests)
    assert run(*command, 100_000).code == 0
    copies = Counter(record.value for record in stream.read(stream.settings.topic_replay))
    assert copies == Counter(each["value"] for each in requests)
    again = run(*command, 100_000)
    assert "--name starts a new one" in again.err
    assert sent() == len(requests)


def test_a_replay_waits_for_live_traffic_and_sees_what_is_written_meanwhile(stream: Stream, run: Commands) -> None:
    """It pauses while the live group lags; a key that is deleted during the pause is not brought back after it."""
    stream.send([request(number, f"k-{number}") for number in range(20)])
    catch_up(stream)
    stream.send([request(number) for number in range(100, 200)])
    process = run.begin("replay", "--topic", "requests", "--to", "5", "--execute", "--max-live-lag", 50, "--json")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("paused while live traffic lags: 100 records"):
            break
    assert not stream.read(stream.settings.topic_replay)
    stream.send([{"key": b"k-%d" % number, "value": None} for number in range(20)])
    catch_up(stream)
    ended = outcome(process)
    assert (ended.code, ended.json["executed"]["moved"]) == (0, 0)
    assert ended.json["executed"]["left"]["superseded"] == ended.json["total"]["moving"] > 0


def test_ranges_and_filters(stream: Stream, run: Commands) -> None:
    """Offsets, times, a key and headers choose what is replayed; `--include-superseded` takes all of it."""
    stream.send(
        request(n, f"k-{n % 3}", partition=0, headers=[("tenant", b"%d" % (n % 2))], timestamp=1_700_000_000_000 + n)
        for n in range(10)
    )

    def moving(*arguments: str) -> int:
        shown = run("replay", "--topic", "requests", "--json", "--include-superseded", *arguments)
        return int(shown.json["total"]["moving"])

    assert moving() == 10
    assert moving("--from", "2", "--to", "7") == 5
    assert moving("--from", "1700000000004") == 6
    assert moving("--to", "2023-11-14T22:13:20.002Z") == 2
    assert moving("--key", "k-1") == 3
    assert moving("--where", "tenant=1") == 5
    assert moving("--where", "tenant=1", "--key", "k-1") == 2


def test_embeddings_are_scored_again_without_embedding(stream: Stream, run: Commands) -> None:
    """`--re-score` writes the scores that the scorer wrote, and no embedding."""
    settings = stream.settings
    requests = stream.send([request(number, f"k-{number}") for number in range(50)])
    made = InProcess(
        EmbedStage(OneModel(Model(DeterministicEmbedder())), CODEC, settings.topic_embeddings, publish_text=True), 1_000
    )
    outputs = [output for result in made(requests) if isinstance(result, list) for output in result]
    stream.send(({"key": each.key, "value": each.value} for each in outputs), settings.topic_embeddings)
    scorer = stream.start("score").ready()
    stream.finish_scores()
    scorer.stop()
    before, embeddings = stream.scores(), len(stream.embeddings())
    asked = ("replay", "--topic", "embeddings", "--re-score", "--execute", "--json", "--rate", "10000")
    done = outcome(run.begin(*asked))
    assert (done.code, done.json["executed"]["moved"]) == (0, 50)
    scores = stream.scores()
    assert len(scores) == 2 * len(before) > 0
    assert {(record.key, score.id, score.score) for record, score in scores} == {
        (record.key, score.id, score.score) for record, score in before
    }
    assert len(stream.embeddings()) == embeddings


def test_another_models_vectors_go_to_a_topic_of_their_own(stream: Stream, run: Commands) -> None:
    """`--model` embeds here and now into `--output-topic`, which it makes; nothing else gets a record."""
    stream.send([request(number, f"k-{number}", headers=[("deadline", b"1000")]) for number in range(50)])
    bad = stream.send([{"key": b"bad", "value": b"\x02nonsense"}])
    topic = unique("other-model")
    asked = ("replay", "--topic", "requests", "--model", "deterministic", "--execute", "--json", "--output-topic")
    done = outcome(run.begin(*asked, topic))
    assert (done.code, done.json["executed"]["moved"], done.json["executed"]["refused"]) == (3, 50, {"bad-bytes": 1})
    assert f"{bad[0].topic}/{bad[0].partition}@{bad[0].offset}: bad-bytes" in done.err
    found = compacted(stream, topic)
    assert sorted(each.sentence_id for each in found.values()) == sorted(f"s-{number}" for number in range(50))
    assert {each.source.topic for each in found.values()} == {stream.settings.topic_requests}
    assert not stream.embeddings()
    assert not stream.dead_letters()
    mixed = run(*asked, stream.settings.topic_embeddings)
    assert (mixed.code, "expected a topic of its own" in mixed.err) == (1, True)


def test_dead_letters_are_replayed_as_a_redrive_does_it(stream: Stream, run: Commands) -> None:
    """`replay --topic dead-letters --where reason=...` is `dead-letters redrive --reason ...`."""
    for offset, (value, error) in enumerate([(b"\x02nonsense", BadBytes()), (b"", BadBytes()), (b"!", Expired())]):
        read_at = Source("gone", 0, offset, 0)
        why = dead_letter_headers(error, read_at=read_at, timestamp_type=0, group="g", attempts=1)
        stream.send([{"value": value, "headers": why}], stream.settings.topic_dead_letters)
    done = run("replay", "--topic", "dead-letters", "--where", "reason=bad-bytes", "--execute", "--json")
    assert (done.code, done.json["reasons"], done.json["executed"]["moved"]) == (0, {"bad-bytes": 2}, 2)
    assert {record.value for record in stream.read(stream.settings.topic_replay)} == {b"\x02nonsense", b""}
