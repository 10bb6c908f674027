"""The trainer as a process: requests on its topic become versions in the store, and the catalog follows them."""

from pathlib import Path

import httpx2
import pytest

from schemas.records import Sentence, TrainingRequest
from streams.brokers.embedded import EmbeddedBroker
from streams.models.artifacts import ArtifactStore
from streams.models.catalog import Catalog
from streams.scoring.head import HeadScorer
from tests.support.commands import Commands
from tests.support.kafka import HasBrokers
from tests.support.stream import CODEC, PATIENCE, Stream, wait_until


def request(run: str, source: str, **fields: object) -> dict[str, bytes]:
    asked = TrainingRequest(id=run, scorer="place", source=source, label="place", at=0, **fields)  # type: ignore[arg-type]
    return {"key": run.encode(), "value": CODEC.encode(asked, "any")}


def labelled(stream: Stream) -> str:
    """Sends 20 labelled sentences; returns them as a source of labels."""
    places = ["land", "sea"] * 10
    sentences = [Sentence(id=f"{n}", text=f"Here is {p} {n}.", metadata={"place": p}) for n, p in enumerate(places)]
    stream.send([{"value": CODEC.encode(each, "any")} for each in sentences])
    return f"topic:{stream.settings.topic_requests}"


def test_requests_become_versions(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From labels on a topic; one that cannot be carried out fails with the reason, and the next one is taken."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Stream(embedded_broker.bootstrap_servers, tmp_path) as stream:
        settings = stream.settings
        topic = labelled(stream)
        asked = [request("local", "/etc/passwd.csv"), request("run-1", topic), request("short", topic, end="0")]
        stream.send(asked, settings.topic_training)
        trainer = stream.start("trainer").ready()
        catalog = Catalog.open(None)
        wait_until(lambda: {run["status"] for run in catalog.runs()} == {"succeeded", "failed"}, "all runs have ended")
        runs = {run["id"]: run for run in catalog.runs()}
        assert runs["local"]["detail"].startswith("/etc/passwd.csv: expected topic:NAME, or a URL with s3://")
        assert "no labelled sentence is left" in runs["short"]["detail"]
        digest = runs["run-1"]["digest"]
        head = HeadScorer.stored("place", ArtifactStore.at(settings.artifacts), digest)
        assert head.manifest.data.labels == {"land": 10, "sea": 10}
        assert [version["digest"] for version in catalog.versions("scorer", "place")] == [digest]
        assert stream.dead_letters() == []
        trainer.stop()


def test_a_run_is_asked_for_and_followed_over_http(
    kafka: HasBrokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real Kafka: the same key twice is one run, one is cancelled before it begins, the other has figures."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        asked = {"scorer": "place", "source": labelled(stream), "label": "place"}
        bridge = stream.start("bridge")
        wait_until(lambda: bridge.says("startup"), "the bridge is connected")
        with httpx2.Client(base_url=f"{bridge.url}/v1", timeout=PATIENCE) as http:
            begun = [http.post("/training-runs", json=asked, headers={"Idempotency-Key": "monday"}) for _ in range(2)]
            assert [answer.status_code for answer in begun] == [202, 202]
            unwanted = http.post("/training-runs", json=asked).json()["id"]
            assert http.post(f"/training-runs/{unwanted}/cancel").json()["status"] == "cancelled"
            trainer = stream.start("trainer").ready()
            [run] = {answer.json()["id"] for answer in begun}
            wait_until(lambda: http.get(f"/training-runs/{run}").json()["status"] == "succeeded", "the run has ended")
            wait_until(
                lambda: stream.lag(stream.settings.topic_training, f"{stream.settings.group}-train") == 0, "done"
            )
            found = {each["id"]: each for each in http.get("/training-runs").json()["data"]}
        assert set(found) == {run, unwanted}
        assert (found[unwanted]["status"], found[unwanted]["version"]) == ("cancelled", None)
        assert (found[run]["labels"], found[run]["request"]["by"]) == ({"land": 10, "sea": 10}, "anonymous:127.0.0.1")
        assert 0 <= found[run]["metrics"]["accuracy"] <= 1
        manifest = HeadScorer.stored(
            "place", ArtifactStore.at(stream.settings.artifacts), found[run]["version"]
        ).manifest
        assert manifest.metrics == found[run]["metrics"]
        listed = Commands(stream, monkeypatch, capsys)("models", "runs", "--json").json
        assert {each["id"]: each for each in listed} == found
        trainer.stop()
        bridge.stop()
