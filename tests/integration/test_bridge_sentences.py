"""Sentences sent through bridges on a real Kafka: once for each key, and results that outlive a bridge."""

import asyncio
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.kafka import HasBrokers
from tests.support.redis import RedisServer
from tests.support.stream import PATIENCE, Program, Stream, wait_until


def send(bridge: Program, *texts: str, key: str | None = None, **more: Any) -> list[str]:
    """Sends sentences; returns their ids."""
    body = {"sentences": [{"text": text, **more} for text in texts]}
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = httpx2.post(f"{bridge.url}/v1/sentences", json=body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 202, answer.text
    return [item["id"] for item in answer.json()["data"]]


def result(bridge: Program, sentence_id: str, wait: float = 0.0, **headers: str) -> httpx2.Response:
    """Asks what became of a sentence."""
    url = f"{bridge.url}/v1/sentences/{sentence_id}/results"
    return httpx2.get(url, params={"wait": wait}, headers=headers, timeout=PATIENCE)


def test_what_is_sent_comes_out_for_all(kafka: HasBrokers, tmp_path: Path) -> None:
    """Coordinates are where the record is; subscribers get the result, and so does whoever asks by id."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        body = {"sentences": [{"text": f"Sentence {n}.", "metadata": {"n": str(n)}} for n in range(20)]}
        sent = httpx2.post(f"{bridge.url}/v1/sentences", json=body, timeout=PATIENCE).json()["data"]
        for item in sent:
            assert result(bridge, item["id"], wait=30).json()["status"] == "done"
        stream.finish()
        published = {embedding.sentence_id: embedding for _, embedding in stream.embeddings()}
        for n, item in enumerate(sent):
            embedding = published[item["id"]]
            assert embedding.metadata == {"n": str(n)}
            source = embedding.source
            assert (source.topic, source.partition, source.offset) == (item["topic"], item["partition"], item["offset"])
        with httpx2.stream(
            "GET", f"{bridge.url}{sent[0]['results']}", headers={"Accept": "text/event-stream"}, timeout=PATIENCE
        ) as events:
            assert next(events.iter_lines()) == "event: result"
        assert result(bridge, str(uuid.uuid4())).status_code == 404
        bridge.stop()
        worker.stop()


def test_results_outlive_a_bridge(kafka: HasBrokers, tmp_path: Path) -> None:
    """What a bridge sent before it was killed has its result at the next one: it reads the kept replies again."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, bridge = stream.start("worker"), stream.start("bridge")
        worker.ready()
        bridge.ready()
        [before] = send(bridge, "Answered before.")
        assert result(bridge, before, wait=30).status_code == 200
        worker.freeze()
        [after] = send(bridge, "Answered when nobody listens.")
        bridge.kill()
        worker.thaw()
        stream.finish()
        successor = stream.start("bridge").ready()
        for sentence_id in (before, after):
            wait_until(lambda each=sentence_id: result(successor, each).status_code == 200, "the result is kept")
        successor.stop()
        worker.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """A Redis that is shared."""
    return redis_server.url


async def _ask_all(bridges: list[Program], key: str, callers: int) -> list[httpx2.Response]:
    limits = httpx2.Limits(max_connections=callers)
    async with httpx2.AsyncClient(timeout=PATIENCE, limits=limits) as http:
        body = {"sentences": [{"text": "Only once."}]}
        headers = {"Idempotency-Key": key}
        urls = [f"{bridges[n % len(bridges)].url}/v1/sentences" for n in range(callers)]
        return await asyncio.gather(*(http.post(url, json=body, headers=headers) for url in urls))


def test_replicas_agree_through_redis(kafka: HasBrokers, redis_url: str, tmp_path: Path) -> None:
    """100 callers with one key on two bridges: one execution, one answer; each bridge knows results of the other."""
    with Stream(kafka.bootstrap_servers, tmp_path, redis_url=redis_url) as stream:
        worker = stream.start("worker").ready()
        bridges = [stream.start("bridge").ready() for _ in range(2)]
        answers = asyncio.run(_ask_all(bridges, "k", 100))
        counts = Counter(answer.status_code for answer in answers)
        assert set(counts) <= {202, 409}
        assert len({answer.content for answer in answers if answer.status_code == 202}) == 1
        ids = {send(bridge, "Only once.", key="k")[0] for bridge in bridges}
        [sentence_id] = ids
        stream.finish()
        assert len(stream.read(stream.settings.topic_requests)) == 1
        for bridge in bridges:
            assert result(bridge, sentence_id, wait=30).json()["status"] == "done"
        for bridge in bridges:
            bridge.stop()
        worker.stop()


def test_another_replica_takes_over_results(kafka: HasBrokers, redis_url: str, tmp_path: Path) -> None:
    """A bridge that is killed while its sentences are embedded leaves their results to the others."""
    with Stream(kafka.bootstrap_servers, tmp_path, redis_url=redis_url) as stream:
        worker = stream.start("worker").ready()
        doomed, other = (stream.start("bridge").ready() for _ in range(2))
        worker.freeze()
        ids = send(doomed, *(f"Sentence {n}." for n in range(8)))
        doomed.kill()
        worker.thaw()
        for sentence_id in ids:
            wait_until(lambda each=sentence_id: result(other, each, wait=5).status_code == 200, "the result is there")
        other.stop()
        worker.stop()
