"""Models switched on a real Kafka: by the command, followed by workers and bridges, and remembered."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from schemas.records import Alert
from streams.brokers.embedded import EmbeddedBroker
from streams.embedding.embedder import Vectors
from streams.models.artifacts import ArtifactStore
from streams.settings import PREFIX
from streams.testing import DeterministicEmbedder
from tests.support.commands import Commands
from tests.support.heads import put_head
from tests.support.kafka import HasBrokers
from tests.support.stream import CODEC, PATIENCE, ROOT, Program, Stream, encoded, wait_until

SECOND = "deterministic:2"


def vector(text: str, variant: str = "1") -> Vectors:
    """The vector of a text."""
    embedder = DeterministicEmbedder(variant=variant)
    return embedder.embed(embedder.tokenise([text]))[0]


def models(stream: Stream, *arguments: str, code: int = 0) -> Any:
    """Runs `sentence-streams models` with the stream's settings; returns the JSON it prints, or what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ours = {PREFIX + name.upper(): str(value) for name, value in stream._overrides.items()}
    done = subprocess.run(
        [sys.executable, "-m", "agents.cli", "models", *arguments],
        env={**environment, **ours}, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def embed(bridge: Program, text: str, **more: Any) -> dict[str, Any]:
    """A bridge's answer for one text."""
    answer = httpx2.post(f"{bridge.url}/v1/embeddings", json={"input": text, **more}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "etag": answer.headers["etag"]}


def is_of(answer: dict[str, Any], text: str, variant: str) -> bool:
    """Whether an answer is the variant's, name and vector; never the name of one and the vector of another."""
    assert answer["model"] == ("deterministic" if variant == "1" else f"deterministic:{variant}") or variant == "?"
    return np.array_equal(np.float32(answer["data"][0]["embedding"]), vector(text, variant))


def test_a_switch_is_followed_remembered_and_taken_back(kafka: HasBrokers, tmp_path: Path) -> None:
    """Worker and bridge follow the command; a restarted worker begins with it; a rollback is the way back.

    The bridge has the text's old vector in its cache all the while, and never answers with it.
    """
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, bridge = stream.start("worker").ready(), stream.start("bridge").ready()
        old = embed(bridge, "A sentence.")
        assert is_of(old, "A sentence.", "1")

        state = models(stream, "activate", SECOND, "--why", "a test", "--by", "anna", "--json")
        assert (state["by"], state["reason"], state["active"]["name"]) == ("anna", "a test", SECOND)
        wait_until(lambda: embed(bridge, "A sentence.")["model"] == SECOND, "the bridge answers with the second model")
        new = embed(bridge, "A sentence.")
        assert is_of(new, "A sentence.", "2")
        assert new["etag"] != old["etag"]

        worker.stop()
        worker = stream.start("worker").ready()
        stream.send([{"value": encoded(1)}])
        stream.finish()
        [(_, embedding)] = stream.embeddings()
        assert embedding.model == SECOND

        models(stream, "rollback", "--why", "back", "--json")
        wait_until(lambda: embed(bridge, "A sentence.")["model"] == "deterministic", "the first model is back")
        assert is_of(embed(bridge, "A sentence."), "A sentence.", "1")
        assert [each["alias"] for each in models(stream, "aliases", "--json")] == ["default"]
        for program in (bridge, worker):
            program.stop()


def test_the_bridge_decides_as_the_command_does(kafka: HasBrokers, tmp_path: Path) -> None:
    """A second alias is served beside the default; what cannot be done is a problem that says why."""
    with Stream(kafka.bootstrap_servers, tmp_path, roles="admin=all") as stream:
        worker, bridge = stream.start("worker").ready(), stream.start("bridge").ready()

        def decide(**fields: Any) -> httpx2.Response:
            return httpx2.post(f"{bridge.url}/v1/models", json={"why": "a test", **fields}, timeout=PATIENCE)

        assert decide(action="activate", alias="small", source=SECOND).json()["active"]["name"] == SECOND
        wait_until(
            lambda: SECOND in [each["id"] for each in _named(bridge, "small")["data"]], "the second model answers"
        )
        assert embed(bridge, "Side by side.")["model"] == "deterministic"
        assert is_of(embed(bridge, "Side by side.", model="small"), "Side by side.", "2")
        refused = decide(action="rollback", alias="small")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/decision-not-possible")
        assert decide(action="disable", alias="small").json()["disabled"] is True
        wait_until(
            lambda: httpx2.post(
                f"{bridge.url}/v1/embeddings", json={"input": "Gone.", "model": "small"}, timeout=PATIENCE
            ).status_code == 404,
            "a disabled alias is not found",
        )  # fmt: skip
        assert [state["reason"] for state in models(stream, "aliases", "--json")] == ["a test"]
        for program in (bridge, worker):
            program.stop()


def _named(bridge: Program, alias: str) -> Any:
    httpx2.post(f"{bridge.url}/v1/embeddings", json={"input": "Who?", "model": alias}, timeout=PATIENCE)
    return httpx2.get(f"{bridge.url}/v1/models", timeout=PATIENCE).json()


def test_a_model_that_cannot_be_loaded_is_an_alert_and_no_outage(kafka: HasBrokers, tmp_path: Path) -> None:
    """The stream answers on with what it has, and a person hears why."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker = stream.start("worker").ready()
        models(stream, "activate", str(tmp_path / "nowhere"), "--why", "a mistake")
        wait_until(lambda: bool(stream.read(stream.settings.topic_alerts)), "there is an alert")
        (record, *_) = stream.read(stream.settings.topic_alerts)
        assert CODEC.decode(Alert, record.value).kind == "model-not-loaded"
        stream.send([{"value": encoded(1)}])
        stream.finish()
        assert [embedding.model for _, embedding in stream.embeddings()] == ["deterministic"]
        worker.stop()


def test_scorers_follow_the_embedder(kafka: HasBrokers, tmp_path: Path) -> None:
    """Each embedding is scored by scorers whose examples its own model embedded, before a switch and after it."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        worker, scorer = stream.start("worker").ready(), stream.start("score").ready()
        stream.send([{"value": encoded(1)}])
        stream.finish()
        models(stream, "activate", SECOND, "--why", "a test")
        wait_until(lambda: SECOND in str(worker.metrics()), "the worker serves the second model")
        stream.send([{"value": encoded(2)}])
        stream.finish()
        stream.finish_scores()
        assert {(score.sentence_id, score.model) for _, score in stream.scores()} == {
            ("s-1", "deterministic"),
            ("s-2", SECOND),
        }
        assert len({score.scorer_version for _, score in stream.scores()}) == 2
        assert not stream.dead_letters()
        for program in (worker, scorer):
            program.stop()


@pytest.mark.parametrize("arguments", [("rollback",), ("resume",)], ids=lambda arguments: str(arguments[0]))
def test_what_cannot_be_done_is_said(kafka: HasBrokers, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """One line, and exit code 1."""
    with Stream(kafka.bootstrap_servers, tmp_path) as stream:
        assert models(stream, *arguments, "--why", "a test", code=1).startswith("sentence-streams: embedder default: ")


def test_requests_that_wait_for_scores_follow_the_commands_too(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    """A worker answers with a trained head from its activation on, and refuses what is disabled."""
    with Stream(embedded_broker.bootstrap_servers, tmp_path, artifacts=str(tmp_path / "store")) as stream:
        worker, bridge = stream.start("worker").ready(), stream.start("bridge").ready()

        def versions(*names: str) -> dict[str, str] | None:
            question = {"input": "A sentence.", **({"scorers": names} if names else {})}
            answer = httpx2.post(f"{bridge.url}/v1/scores", json=question, timeout=PATIENCE)
            if answer.status_code != 200:
                return None
            return {score["scorer"]: score["version"] for score in answer.json()["data"][0]["scores"]}

        assert versions("place") is None
        digest = put_head(ArtifactStore.at(stream.settings.artifacts), DeterministicEmbedder().identity)
        models(stream, "activate", digest, "--as", "scorer:place", "--why", "a test")
        wait_until(lambda: (versions() or {}).get("place") == digest[:12], "the head answers")
        assert versions("place") == {"place": digest[:12]}
        models(stream, "disable", "scorer:place", "--why", "a test")
        wait_until(lambda: "place" not in (versions() or {"place": ""}), "the head is out of service")
        assert versions("place") is None
        for program in (bridge, worker):
            program.stop()


def test_the_command_decides_of_shadows_trials_and_service(
    embedded_broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says in a line, or as JSON, what holds now; a share of 0 ends a shadow and a trial."""
    with Stream(embedded_broker.bootstrap_servers, tmp_path) as stream:
        run, why = Commands(stream, monkeypatch, capsys), ("--why", "a test", "--by", "anna")
        said = run("models", "shadow", SECOND, "--share", 0.2, *why)
        assert said.err.strip() == (
            f"embedder default: what the settings say answers, {SECOND} works on 20% as a shadow"
        )
        state = run("models", "trial", SECOND, "--share", 0.05, *why, "--json").json
        assert (state["trial"]["name"], state["share"], state["shadow_share"]) == (SECOND, 0.05, 0.2)
        for command in ("shadow", "trial"):
            state = run("models", command, SECOND, "--share", 0, *why, "--json").json
        assert (state["shadow"], state["shadow_share"], state["trial"], state["share"]) == (None, 0, None, 0)
        state = run("models", "disable", "scorer:mood", *why, "--json").json
        assert (state["kind"], state["alias"], state["disabled"], state["by"]) == ("scorer", "mood", True, "anna")
        listed = run("models", "aliases", "--json").json
        assert [(each["alias"], each["disabled"]) for each in listed] == [("default", False), ("mood", True)]
