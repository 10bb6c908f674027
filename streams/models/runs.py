"""A training run from labelled sentences to a version in the store, and how it compares with the one in service."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from obstore import get, put
from obstore.store import ObjectStore

from schemas.errors import StreamsError
from streams.models.artifacts import ArtifactStore
from streams.models.datasets import Dataset
from streams.models.manifest import Manifest
from streams.models.objects import explained
from streams.models.training import Embedded, Recipe, train
from streams.models.vectors import Stopped, Vectoriser
from streams.scoring.head import HeadScorer


@dataclass(frozen=True, slots=True)
class Outcome:
    """A version that was trained."""

    digest: str
    manifest: Manifest
    #: What was left out of the data, see `Dataset`.
    warnings: tuple[str, ...]
    #: See `compared`; empty where nothing is in service.
    comparison: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What people and machines are told of it."""
        manifest = self.manifest
        return {
            "digest": self.digest,
            "rows": manifest.data.rows,
            "labels": manifest.data.labels,
            "metrics": manifest.metrics,
            "warnings": list(self.warnings),
            "comparison": self.comparison,
        }


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: `tell` hears what is done, and how much of it; `stopped` says whether to go on."""

    tell: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    stopped: Callable[[], bool] = lambda: False

    def step(self, what: str, done: int, total: int) -> None:
        """Tells, and raises Stopped where it is enough."""
        self.tell(what, done, total)
        if self.stopped():
            raise Stopped("told to stop")


class StoreNotes:
    """Keeps chunks of vectors beside the artifacts, so that another process on another machine can go on."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        """`place` is the store's name in messages."""
        self._store, self._place = store, place

    def load(self, name: str) -> bytes | None:
        try:
            with explained(self._place):
                return bytes(get(self._store, f"vectors/{name}").bytes())
        except FileNotFoundError:
            return None

    def save(self, name: str, content: bytes) -> None:
        with explained(self._place):
            put(self._store, f"vectors/{name}", content)


def carried_out(
    dataset: Dataset,
    recipe: Recipe,
    vectoriser: Vectoriser,
    artifacts: ArtifactStore,
    active: str | None,
    watch: Watch,
) -> Outcome:
    """Embeds, trains and stores; `active` is the digest of the version in service.

    Raises Stopped, CannotTrain, EmbeddingFailed, StoreUnavailable.
    """
    total = len(dataset.texts)
    embedded = vectoriser(dataset.texts, lambda done: watch.step("embedding", done, total), watch.stopped)
    place = artifacts.keep(dataset.to_bytes())
    made = train(
        dataset, embedded, vectoriser.identity, recipe, place, lambda done, of: watch.step("training", done, of)
    )
    digest = artifacts.put(made.files)
    comparison = compared(active, digest, dataset, embedded, artifacts) if active else {}
    return Outcome(digest, made.manifest, dataset.warnings, comparison)


def compared(
    active: str, digest: str, dataset: Dataset, embedded: Embedded, artifacts: ArtifactStore
) -> dict[str, Any]:
    """How the version in service does on the same sentences, and on how many the two agree.

    It may have seen some of them, so its accuracy flatters it; `same_data` says that it has seen them all. Where it
    cannot be asked, `error` says why: a comparison is no reason to lose a version.
    """
    try:
        old, new = (HeadScorer.stored("compared", artifacts, each) for each in (active, digest))
        said = np.array(old.labels)[old.probabilities(embedded.vectors).argmax(axis=1)]
    except StreamsError as error:
        return {"active": active, "error": str(error)}
    now = np.array(new.labels)[new.probabilities(embedded.vectors).argmax(axis=1)]
    return {
        "active": active,
        "accuracy": float((said == np.array(dataset.labels)).mean()),
        "agreement": float((said == now).mean()),
        "same_data": old.manifest.data.digest == dataset.digest,
    }
