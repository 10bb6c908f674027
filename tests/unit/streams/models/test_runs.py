"""A training run: what it leaves in the store, how it goes on, and what it says of the version in service."""

from pathlib import Path

import pytest

from streams.models.artifacts import ArtifactStore
from streams.models.datasets import Dataset
from streams.models.objects import open_store
from streams.models.runs import Outcome, StoreNotes, Watch, carried_out
from streams.models.training import Recipe
from streams.models.vectors import Stopped, Vectoriser
from streams.scoring.head import HeadScorer
from streams.testing import DeterministicEmbedder

TEXTS = tuple(sorted(f"{word} {n}" for word in ("fine", "bad") for n in range(20)))
DATASET = Dataset(TEXTS, tuple("yes" if text.startswith("fine") else "no" for text in TEXTS), ("1 row left out",))
#: The deterministic embedder's vectors mean nothing: such a head knows its own sentences by heart.
BY_HEART = Recipe(regularisation=1e-3)


def carry_out(
    folder: Path, recipe: Recipe = BY_HEART, active: str | None = None, watch: Watch | None = None
) -> Outcome:
    notes = StoreNotes(open_store(str(folder)), "store")
    vectoriser = Vectoriser(DeterministicEmbedder(), None, notes)
    return carried_out(DATASET, recipe, vectoriser, ArtifactStore.at(str(folder)), active, watch or Watch())


def test_a_run_leaves_a_version_and_its_data(tmp_path: Path) -> None:
    """Under the digest it tells; the data set is where the manifest says."""
    found = carry_out(tmp_path)
    store = ArtifactStore.at(str(tmp_path))
    head = HeadScorer.stored("mood", store, found.digest)
    embedder = DeterministicEmbedder()
    verdicts = head.score(embedder.embed(embedder.tokenise(TEXTS)))
    assert [verdict.label for verdict in verdicts] == list(DATASET.labels)
    assert head.manifest.data.place is not None
    assert store.kept(head.manifest.data.place) == DATASET.to_bytes()
    assert found.as_json()["warnings"] == ["1 row left out"]
    assert found.as_json()["labels"] == {"no": 20, "yes": 20}


def test_the_same_run_again_is_the_same_version(tmp_path: Path) -> None:
    """In another store, too."""
    assert carry_out(tmp_path / "a").digest == carry_out(tmp_path / "b").digest


def test_a_run_tells_how_far_it_is_and_can_be_stopped(tmp_path: Path) -> None:
    """Between two steps of any kind; begun again it comes to the same end."""
    told: list[tuple[str, int, int]] = []
    watch = Watch(lambda *each: told.append(each), lambda: len(told) == 3)
    with pytest.raises(Stopped):
        carry_out(tmp_path, watch=watch)
    assert told == [("embedding", 40, 40), ("training", 1, 6), ("training", 2, 6)]
    assert not (tmp_path / "artifacts").exists()
    assert carry_out(tmp_path).digest == carry_out(tmp_path / "fresh").digest


def test_the_version_in_service_is_asked_the_same(tmp_path: Path) -> None:
    """How often it is right, how often both say the same, and whether it has seen these very sentences."""
    first = carry_out(tmp_path)
    second = carry_out(tmp_path, Recipe("ridge"), first.digest)
    assert second.comparison == {"active": first.digest, "accuracy": 1.0, "agreement": 1.0, "same_data": True}


def test_a_version_in_service_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    """The new version is there; why there is no comparison is said."""
    found = carry_out(tmp_path, active="f" * 64)
    assert "no artifact ffffffffffff" in found.comparison["error"]
