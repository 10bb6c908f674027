"""Workers that start, are not needed, cannot reach the broker, leave, or must not join at all."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streams.embedding.loader import DEFAULT_MODEL, find
from tests.support.kafka import Kafka
from tests.support.stream import Program, Stream, encoded, wait_until


@pytest.fixture
def stream(kafka: Kafka, tmp_path: Path) -> Iterator[Stream]:
    """Topics of one partition, of which a worker serves one."""
    with Stream(kafka.bootstrap_servers, tmp_path, partitions=1, lanes="bulk") as stream:
        yield stream


def why(program: Program, page: str) -> tuple[int, str]:
    """What a health page answers: its status, and the reason it gives."""
    status, body = program.get(f"/health/{page}")
    return status, json.loads(body)["why"] if body else ""


def test_health_follows_the_worker(kafka: Kafka, stream: Stream) -> None:
    """Ready: only with a partition, with a broker that answers, and until it leaves. Live all that time."""
    first = stream.start().ready()
    second = stream.start()
    wait_until(lambda: second.says("startup"), "the second has joined")
    assert why(second, "ready") == (503, "no partition is assigned yet")
    assert second.says("live")
    second.stop()
    kafka.pause()
    try:
        wait_until(lambda: why(first, "ready") == (503, "no broker answers the publisher"), "outputs are unreachable")
        assert first.says("live")
        first.leave()
        wait_until(lambda: why(first, "ready") == (503, "leaving"), "it says that it leaves")
        assert first.says("live")
    finally:
        kafka.resume()
    assert first.exit() == 0


def test_a_partition_moves_to_the_worker_that_waits(stream: Stream) -> None:
    """A worker without a partition gets the one of another that is gone, from its first record."""
    first = stream.start().ready()
    second = stream.start()
    wait_until(lambda: second.says("startup"), "the second has joined")
    first.stop()
    sent = stream.send({"value": encoded(number)} for number in range(1000))
    second.ready()
    stream.finish()
    assert [embedding.source.offset for _, embedding in stream.embeddings()] == [record.offset for record in sent]
    second.stop()


def test_a_worker_whose_model_is_not_what_it_was_never_joins(stream: Stream, tmp_path: Path) -> None:
    """The genuine weights, put together wrongly: the golden check ends the worker with one clear line."""
    folder = tmp_path / "model"
    shutil.copytree(find(DEFAULT_MODEL).folder, folder)
    pooling = folder / "1_Pooling" / "config.json"
    settings = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(settings | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}))
    worker = stream.start(model=str(folder), model_backend="torch")
    assert worker.exit() == 1
    assert_one_line(worker, "golden check: sentence 1: cosine")
    admin = AdminClient({"bootstrap.servers": stream.servers, "log_level": 0})
    groups = admin.list_consumer_groups().result().valid
    assert stream.settings.group not in {group.group_id for group in groups}


def assert_one_line(program: Program, text: str) -> None:
    """A program said one line and no more."""
    [line] = program.tail().splitlines()
    assert line.startswith(f"sentence-streams: {text}")
