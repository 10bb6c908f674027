"""The embedding stage while models are switched: whose vector, whose name, whose place in the cache."""

from collections.abc import Sequence

import numpy as np

from schemas.errors import Reject
from schemas.records import Embedding
from streams.cache import MemoryCache
from streams.embedding.embedder import Tokens, Vectors
from streams.embedding.model import Model
from streams.embedding.replies import Replies
from streams.embedding.results import EmbedWork
from streams.embedding.shadow import WAITING, Shadow
from streams.embedding.stage import EmbedStage
from streams.observe.metrics import Metrics
from streams.records import Outgoing
from streams.testing import DeterministicEmbedder
from tests.unit.streams.embedding.examples import ASKING, CODEC, asked, embedding_in, reply_in


class Noting(DeterministicEmbedder):
    """Remembers the size of each batch."""

    def __init__(self, variant: str, **poison: object) -> None:
        super().__init__(poison, variant)  # type: ignore[arg-type]
        self.batches: list[int] = []

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        self.batches.append(len(batch))
        return super().embed(batch)


FIRST, SECOND = Noting("1"), Noting("2")


class Two:
    """Two models under their variants; the default can be switched."""

    def __init__(self, *, shadow: bool = False) -> None:
        self.models: dict[str | None, Model] = {None: Model(FIRST), "1": Model(FIRST), "2": Model(SECOND)}
        self._shadow = self.models["2"] if shadow else None

    @property
    def default(self) -> Model:
        return self.models[None]

    def find(self, name: str | None, sentence_id: str) -> Model:
        return self.models[name]

    def shadow(self, name: str | None, sentence_id: str) -> Model | None:
        return self._shadow

    def switch(self) -> None:
        self.models[None] = self.models["2"]


def works(stage: EmbedStage, *fields: dict[str, object], headers: Sequence[tuple[str, bytes]] = ()) -> list[EmbedWork]:
    """What the stage has to do for sentences with these fields."""
    prepared = stage.prepare([asked(*headers, **each) for each in fields])  # type: ignore[arg-type]
    return [each for each in prepared if isinstance(each, EmbedWork)]


def published(results: Sequence[list[Outgoing] | Reject]) -> list[Embedding]:
    """The one embedding that is published of each."""
    assert all(isinstance(outputs, list) and len(outputs) == 1 for outputs in results)
    return [embedding_in(outputs[0]) for outputs in results if isinstance(outputs, list)]


def vector(model: DeterministicEmbedder, text: str) -> Vectors:
    return model.embed(model.tokenise([text]))[0]


def test_what_was_prepared_before_a_switch_is_of_the_old_model() -> None:
    """In one batch with what came after it: each is embedded, named and identified by its own model, in calls apart."""
    models = Two()
    stage = EmbedStage(models, CODEC, "embeddings", publish_text=True)
    before = works(stage, {"id": "a", "text": "same text"})
    models.switch()
    after = works(stage, {"id": "a", "text": "same text"}, {"id": "b", "text": "other"})
    FIRST.batches.clear()
    SECOND.batches.clear()
    new, old, other = published(stage.run([after[0], *before, after[1]]))
    assert (FIRST.batches, SECOND.batches) == ([1], [2])
    assert (old.model, new.model, other.model) == ("deterministic", "deterministic:2", "deterministic:2")
    assert (old.weights_digest, new.weights_digest) == (FIRST.identity.digest, SECOND.identity.digest)
    assert old.id != new.id
    np.testing.assert_array_equal(old.vector, vector(FIRST, "same text"))
    np.testing.assert_array_equal(new.vector, vector(SECOND, "same text"))


def test_the_cache_keeps_models_apart() -> None:
    """After a switch a text that is known of the old model is embedded anew; after the way back it is known still."""
    models = Two()
    stage = EmbedStage(models, CODEC, "embeddings", publish_text=True, cache=MemoryCache(10**6, Metrics()))
    stage.run(works(stage, {"text": "known"}))
    assert not works(stage, {"text": "known"})
    models.switch()
    assert len(works(stage, {"text": "known"})) == 1
    models.models[None] = models.models["1"]
    assert not works(stage, {"text": "known"})


def test_a_reply_names_the_model_that_answered() -> None:
    """Whatever is the default by then."""
    models = Two()
    stage = EmbedStage(models, CODEC, "embeddings", publish_text=True, replies=Replies(CODEC, {"replies"}, models))
    work = works(stage, {"text": "a"}, headers=ASKING)
    models.switch()
    [outputs] = stage.run(work)
    assert isinstance(outputs, list)
    [out] = outputs
    assert reply_in(out).served.model == "deterministic"


def test_a_shadow_embeds_and_publishes_nothing() -> None:
    """Its work is counted; what is published is the active model's, record for record."""
    metrics, models = Metrics(), Two(shadow=True)
    shadow = Shadow(metrics)
    stage = EmbedStage(models, CODEC, "embeddings", publish_text=True, shadow=shadow)
    done = stage.run(works(stage, {"text": "a"}, {"text": "b"}))
    shadow.wait()
    assert [embedding.model for embedding in published(done)] == ["deterministic"] * 2
    assert counted(metrics, "good") == 2


def test_a_shadow_that_fails_harms_nobody() -> None:
    """It is counted by what went wrong: an exception, or vectors that are not finite."""
    metrics = Metrics()
    shadow = Shadow(metrics)

    def fail(_row: Vectors) -> Vectors:
        raise ValueError

    broken = Model(DeterministicEmbedder({"bad": fail, "nan": lambda row: np.full_like(row, np.nan)}, "2"))
    shadow.give(broken, ["bad"])
    shadow.give(broken, ["nan", "good"])
    shadow.wait()
    assert [counted(metrics, outcome) for outcome in ("failed", "broken", "good")] == [1, 1, 1]


def test_a_shadow_that_is_too_slow_is_skipped() -> None:
    """Live traffic never waits for it."""
    metrics = Metrics()
    shadow = Shadow(metrics)
    shadow._thread = object()  # type: ignore[assignment]  # nobody works
    for _ in range(WAITING + 3):
        shadow.give(Model(SECOND), ["a"])
    assert counted(metrics, "skipped") == 3


def counted(metrics: Metrics, outcome: str) -> float:
    labels = {"model": "deterministic:2", "outcome": outcome}
    return metrics.registry.get_sample_value("streams_shadow_records_total", labels) or 0.0
