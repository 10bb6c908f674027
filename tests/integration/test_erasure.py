"""Erasing a person's sentences on a real Kafka and a real Redis, step by step as docs/retention-and-erasure.md says."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streams import topics
from streams.cache.shared import PREFIX
from streams.settings import TOPICS, Settings
from tests.support.commands import Commands
from tests.support.kafka import HasBrokers, configure
from tests.support.redis import RedisServer
from tests.support.stream import ROOT, Stream, encoded, wait_until

PAGE = (ROOT / "docs" / "retention-and-erasure.md").read_text()
PERSON, SECRET = b"person-42", b"my own words"
#: Lets Kafka compact within seconds what it would compact some day, and drop tombstones as soon.
SOON = {
    "segment.ms": "10",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "10",
}


@pytest.fixture
def stream(kafka: HasBrokers, own_redis: RedisServer, tmp_path: Path) -> Iterator[Stream]:
    """A stream with one partition, whose workers share vectors through Redis."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=1, redis_url=own_redis.url, cache_bytes=0) as stream:
        configure(kafka, stream.settings.topic_embeddings, SOON)
        yield stream


def test_the_steps_of_the_page_leave_nothing_of_a_person(
    stream: Stream, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results, requests, dead letters and the cache are without their words; their neighbours still have theirs."""
    for command in ("worker", "score"):
        stream.start(command).ready()
    mine = {"value": encoded(1, text=SECRET.decode()), "key": PERSON}
    stream.send([mine, {"value": b"\x00" + SECRET, "key": PERSON}, {"value": encoded(2), "key": b"somebody else"}])
    finish(stream)
    assert holding(stream) >= {"topic_requests", "topic_embeddings", "topic_dead_letters"}
    assert cached(own_redis) == 2

    stream.send([{"key": PERSON, "value": None}])  # 1: results
    finish(stream)
    wait_until(lambda: compacted(stream), "Kafka has compacted the embeddings")
    delete_records(stream, stream.settings.topic_requests)  # 3: requests and dead letters
    delete_records(stream, stream.settings.topic_dead_letters)
    purge(own_redis)  # 4: the cache

    assert holding(stream) == set()
    assert cached(own_redis) == 0
    assert {record.key for record, _ in stream.embeddings()} == {b"somebody else", b"filler"}
    run = Commands(stream, monkeypatch, capsys)
    monkeypatch.setenv("STREAMS_REDIS_URL", own_redis.url)  # a secret, which the settings do not print
    assert SECRET.decode() not in run("dead-letters", "list").out
    assert run("replay", "--topic", "requests", "--key", PERSON.decode(), "--json").json["total"]["moving"] == 0


def test_every_topic_is_on_the_page() -> None:
    """A topic that holds sentences cannot be forgotten there; alerts hold none."""
    settings = {name: getattr(Settings(), name) for name in TOPICS}
    assert {spec.name for spec in topics.specs(Settings())} == set(settings.values())
    for name, topic in settings.items():
        short = topic.removeprefix("sentence.requests")
        assert f"`{topic}`" in PAGE or f"`{short}`" in PAGE, f"{name} is not on the page"


def finish(stream: Stream) -> None:
    stream.finish()
    stream.finish_scores()


def holding(stream: Stream) -> set[str]:
    """The topics of which some record holds the person's words, in its value or its headers."""
    return {
        name
        for name in TOPICS
        for record in stream.read(getattr(stream.settings, name))
        if any(SECRET in (part or b"") for part in (record.value, *(value for _, value in record.headers)))
    }


def compacted(stream: Stream) -> bool:
    """Whether the person's embedding is gone; the open segment is never compacted, so another record closes it."""
    stream.send([{"value": encoded(3), "key": b"filler"}])
    finish(stream)
    return "topic_embeddings" not in holding(stream)


def delete_records(stream: Stream, topic: str) -> None:
    """What `kafka-delete-records` does, up to the end of the topic."""
    admin = AdminClient({"bootstrap.servers": stream.servers, "log_level": 0})
    for future in admin.delete_records([TopicPartition(topic, 0, -1)]).values():
        future.result()


def cached(server: RedisServer) -> int:
    """How many vectors Redis has."""
    with redis.Redis.from_url(server.url) as client:
        return len(list(client.scan_iter(f"{PREFIX}*")))


def purge(server: RedisServer) -> None:
    """Runs the page's own command."""
    command = re.search(r"redis-cli .*", PAGE)
    assert command, "the page says how to purge the cache"
    if shutil.which("redis-cli") is None:
        pytest.skip("there is no `redis-cli` on this machine (Debian's package redis-tools has it)")
    line = command[0].replace('"$STREAMS_REDIS_URL"', server.url)
    subprocess.run(["sh", "-c", line], check=True, capture_output=True, timeout=30)
