"""A scorer that makes no sense any more, on a real Kafka: fallback, quarantine, alerts, and the way back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codec import Codec
from schemas.records import Alert, ModelCommand, Score
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.replay import InProcess
from streams.testing import DeterministicEmbedder
from tests.support.commands import Commands, outcome
from tests.support.kafka import HasBrokers
from tests.support.receiver import Receiver, receiving
from tests.support.stream import Stream, encoded, wait_until

CODEC = Codec()
LABELS = "[mood.labels]\ngood = ['I am glad.']\nbad = ['I am sad.']\n"
WINDOW = 100


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Who is notified."""
    with receiving() as server:
        yield server


@pytest.fixture
def stream(kafka: HasBrokers, tmp_path: Path, receiver: Receiver) -> Iterator[Stream]:
    """Windows are so small that only a scorer which always says the same is poor."""
    (tmp_path / "scorers.toml").write_text(LABELS)
    settings: dict[str, str | int | float] = {
        "scorers_file": str(tmp_path / "scorers.toml"),
        "quality_records": WINDOW,
        "quality_least": WINDOW,
        "quality_watch": 3.0,
        "quality_poor": 4.0,
        "notify_urls": f"json://127.0.0.1:{receiver.server_port}",
    }
    with Stream(kafka.bootstrap_servers, tmp_path, **settings) as stream:
        yield stream


def embed(stream: Stream, first: int, count: int, text: str | None = None) -> None:
    """Publishes embeddings of these numbers, all of one text where it is given, and waits for their scores."""
    given = {} if text is None else {"text": text}
    requests = stream.send({"key": f"k-{n}", "value": encoded(n, **given)} for n in range(first, first + count))
    models = OneModel(Model(DeterministicEmbedder()))
    made = InProcess(EmbedStage(models, CODEC, "any", publish_text=True), 10_000)(requests)
    outputs = [output for result in made if isinstance(result, list) for output in result]
    stream.send(({"key": each.key, "value": each.value} for each in outputs), stream.settings.topic_embeddings)
    stream.finish_scores()


def last(stream: Stream, topic: str) -> dict[int, Score]:
    """What compaction would leave of a topic of scores, by the number of the sentence."""
    found = {record.key: record.value for record in stream.read(topic)}
    scores = [CODEC.decode(Score, value) for value in found.values() if value is not None]
    return {int(score.sentence_id.removeprefix("s-")): score for score in scores}


def test_a_scorer_that_makes_no_sense_is_quarantined_until_a_person_resumes_it(
    stream: Stream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A poor window has a fallback answer, a second one ends it for all workers and for those that come later."""
    settings, run = stream.settings, Commands(stream, monkeypatch, capsys)
    scorer = stream.start("score").ready()
    embed(stream, 0, WINDOW)  # the baseline
    embed(stream, WINDOW, 2 * WINDOW, "Always the same.")
    wait_until(lambda: any("quarantined" in each["title"] for each in receiver.received), "somebody is notified")
    commands = [CODEC.decode(ModelCommand, record.value or b"") for record in stream.read(settings.topic_models)]
    assert [(each.alias, each.quarantined, each.by) for each in commands] == [("mood", True, "kill switch")]
    embed(stream, 300, 20)
    scorer.stop()
    scorer = stream.start("score").ready()
    embed(stream, 320, 20)

    held = last(stream, settings.topic_quarantine)
    assert set(range(300, 340)) <= held.keys()
    assert {score.status for score in held.values()} == {"fallback"}
    assert all(
        str(score.reason).startswith("quarantined: 2 poor windows in a row, constant") for score in held.values()
    )
    published = last(stream, settings.topic_scores)
    assert {n for n, score in published.items() if score.status == "ok"} >= set(range(WINDOW))
    assert held.keys() | published.keys() == set(range(340))
    assert not held.keys() & published.keys()
    alerts = [CODEC.decode(Alert, record.value or b"") for record in stream.read(settings.topic_alerts)]
    assert {(each.kind, each.severity) for each in alerts} == {
        ("scorer-drift", "critical"),
        ("scorer-quarantined", "critical"),
    }

    again = ("replay", "--topic", "embeddings", "--re-score", "--execute", "--json", "--rate", "10000")
    refused = outcome(run.begin(*again))
    assert (refused.code, "scorer mood is quarantined" in refused.err) == (1, True)
    assert run("models", "resume", "scorer:mood", "--why", "It was the input.").code == 0
    assert outcome(run.begin(*again)).code == 0
    assert last(stream, settings.topic_quarantine) == {}
    assert {score.status for score in last(stream, settings.topic_scores).values()} == {"ok"}
    scorer.stop()
