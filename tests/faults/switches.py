"""Models that are switched under load, while workers are killed."""

import asyncio
import random
import time
from pathlib import Path

import numpy as np

from agents import switching
from schemas.codec import Codec
from schemas.records import Embedding
from streams.embedding.identity import embedding_id, manner
from streams.models import routing
from streams.testing import DeterministicEmbedder
from tests.faults.scene import Outcome, Scene, Size
from tests.support.kafka import HasBrokers

#: Names the models that take turns: their vectors have nothing in common.
VARIANTS = ("2", "3", "1")
#: Switches to one kill.
CALM = 4


def switched(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Every quarter of the switches a worker is killed; each record is of the very model that it names."""
    dice, began = random.Random(4), list[tuple[str, float]]()
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3) as scene:
        workers = [scene.start() for _ in range(size.workers)]
        for strike in range(size.strikes):
            count = size.records // size.strikes
            scene.send(count)
            scene.await_results(int(count * dice.uniform(0.1, 0.6)))
            began.append((_switch(scene, strike), time.time()))
            if strike % CALM == CALM - 1:
                victim = dice.randrange(size.workers)
                workers[victim].kill()
                workers[victim] = scene.start()
                scene.recover()
        scene.finish()
        found = scene.stream.embeddings()
        lost = scene.sent - len({embedding.source for _, embedding in found})
        repeated = len(found) - scene.sent + lost
        assert lost == 0, f"{lost} are lost"
        assert not scene.stream.dead_letters()
        assert delivery == "at_least_once" or repeated == 0, f"{repeated} came twice"
        _assert_true([embedding for _, embedding in found])
        note = f"{size.strikes} switches, {size.strikes // CALM} kills, {_slowest(began, [e for _, e in found])}"
        return Outcome(scene.sent, lost, repeated, scene.watch.stall, scene.recovery, note)


def name_of(variant: str) -> str:
    """What a deterministic model is called."""
    return "deterministic" if variant == "1" else f"deterministic:{variant}"


def _switch(scene: Scene, strike: int) -> str:
    """Decides as the command does; returns the name of the model that is to answer."""
    name = name_of(VARIANTS[strike % len(VARIANTS)])

    def decision(at: routing.Alias) -> switching.Decision:
        target = switching.target(at, name)
        return switching.Decision(
            "activate", lambda state, why: routing.activate(state, target, why), "test", f"switch {strike}"
        )

    asyncio.run(switching.command(scene.settings, Codec(), routing.DEFAULT, decision))
    return name


def _assert_true(found: list[Embedding]) -> None:
    """Each vector, digest and id is that of the model that its record names, and every model had its turn."""
    models = {name_of(variant): DeterministicEmbedder(variant=variant) for variant in VARIANTS}
    assert {embedding.model for embedding in found} == set(models)
    for name, model in models.items():
        ours = [embedding for embedding in found if embedding.model == name]
        texts = [embedding.text or "" for embedding in ours]
        vectors = model.embed(model.tokenise(texts))
        for embedding, vector, text in zip(ours, vectors, texts, strict=True):
            assert np.array_equal(embedding.vector, vector), f"{embedding.sentence_id} is not of {name}"
            assert embedding.weights_digest == model.identity.digest
            assert embedding.id == embedding_id(
                embedding.sentence_id, text, manner(model.identity, embedding.dimensions)
            )


def _slowest(began: list[tuple[str, float]], found: list[Embedding]) -> str:
    """The longest time from a command to the first record of its model, as far as there was work to do then."""
    times = {name: sorted(e.embedded_at / 1000 for e in found if e.model == name) for name in {n for n, _ in began}}
    ends = [at for _, at in began[1:]] + [float("inf")]
    took = []
    for (name, at), end in zip(began, ends, strict=True):
        took += [moment - at for moment in times[name] if at <= moment < end][:1]
    return f"{len(took)} of them seen at work, the slowest after {max(took):.2f} s"
