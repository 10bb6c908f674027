"""What `replay --re-score` scores with: what answers in the stream."""

from pathlib import Path
from typing import Any

import pytest

from agents.replay import NotForReplay, scoring
from schemas.codec import Codec
from schemas.records import ModelCommand, ModelKind, Score, Sentence, Target
from streams.embedding.model import Model, OneModel
from streams.embedding.stage import EmbedStage
from streams.models.artifacts import ArtifactStore
from streams.models.routing import DEFAULT, Routing, Why, activate, disable, initial, quarantine
from streams.replay import InProcess
from streams.settings import Settings, load
from streams.testing import DeterministicEmbedder, PublishedRecord
from tests.support.heads import put_head

CODEC, WHY = Codec(), Why("1", "ada", "a test", 0)
PLACE = initial(ModelKind.SCORER, "place")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a stream with one scorer of its own, and a store."""
    (tmp_path / "scorers.toml").write_text("[mood.labels]\ngood = ['I am glad.']\nbad = ['I am sad.']\n")
    return load(model="deterministic", scorers_file=tmp_path / "scorers.toml", artifacts=str(tmp_path / "store"))


def record(topic: str, value: bytes | None) -> PublishedRecord:
    return PublishedRecord(topic=topic, partition=0, offset=0, timestamp=0, key=b"k", value=value, headers=())


def scored(settings: Settings, *states: ModelCommand, variant: str = "1") -> dict[str, str]:
    """The version of each scorer that scores an embedding again, where commands came to these states."""
    models = OneModel(Model(DeterministicEmbedder(variant=variant)))
    embed = InProcess(EmbedStage(models, CODEC, "embeddings", publish_text=True), 1000)
    [[embedding]] = embed([record("requests", CODEC.encode(Sentence(id="s", text="A sentence."), "any"))])  # type: ignore[misc]
    routing = Routing()
    for state in states:
        routing = routing.apply(state)
    stage: Any = scoring(settings, CODEC, routing, lambda _key: False)
    [found] = InProcess(stage, 1000)([record("embeddings", embedding.value)])
    assert isinstance(found, list), found
    scores = [CODEC.decode(Score, output.value or b"") for output in found]
    return {score.scorer: score.scorer_version for score in scores}


def trained(settings: Settings, variant: str = "1") -> tuple[str, ModelCommand]:
    """The version of a head, and the command that it answers."""
    digest = put_head(ArtifactStore.at(settings.artifacts), DeterministicEmbedder(variant=variant).identity)
    return digest[:12], activate(PLACE, Target(name="place", source=digest), WHY)


def test_a_trained_head_that_a_command_put_into_service_scores_again(settings: Settings) -> None:
    """Beside the settings' scorers; what is disabled does not."""
    version, active = trained(settings)
    assert scored(settings).keys() == {"mood"}
    assert scored(settings, active)["place"] == version
    assert scored(settings, disable(initial(ModelKind.SCORER, "mood"), WHY), active) == {"place": version}


def test_embeddings_of_another_served_model_have_scorers_that_understand_them(settings: Settings) -> None:
    """The settings' examples are embedded by it, and heads that were trained on the first one do not answer."""
    _, active = trained(settings)
    second = Target(name="deterministic:2", source="deterministic:2")
    served = activate(initial(ModelKind.EMBEDDER, DEFAULT), second, WHY)
    [(name, version)] = scored(settings, active, served, variant="2").items()
    assert name == "mood"
    assert version != scored(settings)["mood"]


def test_what_is_quarantined_or_cannot_be_loaded_scores_nothing_again(settings: Settings) -> None:
    """The message says which, and what to do."""
    _, active = trained(settings)
    with pytest.raises(NotForReplay, match="resume scorer:place"):
        scored(settings, quarantine(active, WHY))
    with pytest.raises(NotForReplay, match="cannot be loaded"):
        scored(settings, activate(PLACE, Target(name="place", source="0" * 64), WHY))
