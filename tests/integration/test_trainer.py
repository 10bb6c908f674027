"""The trainer as a process: requests on its topic become versions in the store, and the catalog follows them."""

from pathlib import Path

import pytest

from schemas.records import Sentence, TrainingRequest
from streams.brokers.embedded import EmbeddedBroker
from streams.models.artifacts import ArtifactStore
from streams.models.catalog import Catalog
from streams.scoring.head import HeadScorer
from tests.support.stream import CODEC, Stream, wait_until


def request(run: str, source: str, **fields: object) -> dict[str, bytes]:
    asked = TrainingRequest(id=run, scorer="place", source=source, label="place", at=0, **fields)  # type: ignore[arg-type]
    return {"key": run.encode(), "value": CODEC.encode(asked, "any")}


def test_requests_become_versions(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From labels on a topic; one that cannot be carried out fails with the reason, and the next one is taken."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with Stream(embedded_broker.bootstrap_servers, tmp_path) as stream:
        settings = stream.settings
        for number in range(20):
            place = "sea" if number % 2 else "land"
            sentence = Sentence(id=str(number), text=f"Here is {place} {number}.", metadata={"place": place})
            stream.send([{"value": CODEC.encode(sentence, "any")}])
        topic = f"topic:{settings.topic_requests}"
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
