"""Batches on a real Kafka with a replay worker: the shell, OpenAI's own client, and a bucket that signs URLs."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import httpx2
import openai
import pytest

from tests.support.commands import Commands
from tests.support.kafka import HasBrokers
from tests.support.s3 import s3_server
from tests.support.stream import PATIENCE, Program, Stream, wait_until


@dataclass(frozen=True)
class Running:
    """A stream with a worker of each kind, and a bridge whose files lie in a bucket."""

    stream: Stream
    bridge: Program
    environment: dict[str, str]


@pytest.fixture(scope="module")
def running(kafka: HasBrokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All of it, ready, shared."""
    folder = tmp_path_factory.mktemp("batches")
    with s3_server() as environment, patch.dict(os.environ, environment):
        more = {"artifacts": "s3://models/batches", "database_url": f"sqlite:///{folder}/catalog.db"}
        with Stream(kafka.bootstrap_servers, folder, partitions=2, **more) as stream:
            programs = [stream.start("worker"), stream.start("worker", lanes="replay"), stream.start("bridge")]
            for program in programs:
                program.ready()
            yield Running(stream, programs[-1], environment)
            for program in programs:
                program.stop()


def lines(count: int) -> bytes:
    """A batch of so many lines."""
    body = {"model": "deterministic", "dimensions": 3}
    asked = (
        {"custom_id": f"c-{n}", "method": "POST", "url": "/v1/embeddings", "body": {**body, "input": f"Number {n}."}}
        for n in range(count)
    )
    return b"".join(json.dumps(each).encode() + b"\n" for each in asked)


def test_openais_client_runs_a_batch(running: Running) -> None:
    """Upload, begin, follow, fetch, list, delete: unchanged."""
    with openai.OpenAI(base_url=f"{running.bridge.url}/v1", api_key="none", max_retries=0) as client:
        file = client.files.create(file=("in.jsonl", lines(300)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", "the batch is done")
        done = client.batches.retrieve(batch.id)
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (300, 300, 0)
        found = [json.loads(line) for line in client.files.content(done.output_file_id or "").text.splitlines()]
        assert [each["custom_id"] for each in found] == [f"c-{n}" for n in range(300)]
        assert [each.id for each in client.batches.list()] == [batch.id]
        assert {each.id for each in client.files.list()} == {file.id, done.output_file_id}
        assert client.batches.cancel(batch.id).status == "completed"
        assert client.files.delete(file.id).deleted


def test_a_bucket_signs_urls_for_files(running: Running) -> None:
    """Up and down past the bridge, without a credential of the caller's; before the upload nothing can begin."""
    with httpx2.Client(base_url=running.bridge.url, timeout=PATIENCE) as http:
        signed = http.post("/v1/files/uploads", json={"filename": "in.jsonl", "purpose": "batch"}).json()
        asked = {"input_file_id": signed["file_id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        assert http.post("/v1/batches", json=asked).status_code == 409
        assert httpx2.put(signed["url"], content=lines(2)).status_code == 200
        assert http.get(f"/v1/files/{signed['file_id']}").json()["bytes"] == len(lines(2))
        batch = http.post("/v1/batches", json=asked).json()["id"]
        wait_until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed", "the batch is done")
        output = http.get(f"/v1/batches/{batch}").json()["output_file_id"]
        url = http.get(f"/v1/files/{output}/url").json()["url"]
        assert httpx2.get(url).content == http.get(f"/v1/files/{output}/content").content


def test_the_command_does_the_same(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CSV comes back as a CSV with a vector a row; a bad row is in the error file, and the exit code says so."""
    file = tmp_path / "sentences.csv"
    file.write_text("custom_id,text,dimensions\na,Größe.,3\nb,,3\nc,Another one.,3\n")
    outcome = Commands(running.stream, monkeypatch, capsys)("batch", file, "--json")
    assert (outcome.code, outcome.json["completed"], outcome.json["failed"]) == (3, 2, 1)
    with (tmp_path / "sentences.vectors.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["custom_id"], len(json.loads(row["embedding"]))) for row in rows] == [("a", 3), ("c", 3)]
    assert json.loads((tmp_path / "sentences.errors.jsonl").read_text())["custom_id"] == "b"
