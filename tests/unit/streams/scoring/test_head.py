"""A trained head: probabilities worked out by hand, and artifacts that are none."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from schemas.errors import ScoringFailed
from streams.models.artifacts import ArtifactDamaged, ArtifactMissing, ArtifactStore, digest
from streams.models.manifest import MANIFEST, BadManifest, Base, Baseline, Manifest, TrainingData
from streams.scoring.head import WEIGHTS, BadHead, HeadScorer
from streams.scoring.scorer import require_model

MODEL = "d" * 64
MANIFEST_OF = Manifest(
    head="logistic",
    labels=("no", "yes"),
    base=Base(name="compass", revision="1", digest=MODEL, precision="float32", dimensions=3),
    data=TrainingData(digest="a" * 64, rows=10, labels={"no": 5, "yes": 5}),
    parameters={},
    seed=0,
    libraries={},
    code="0",
    metrics={},
    baseline=Baseline(scores={}),
)


def files(weights: list[list[float]] | None = None, **tensors: list[float]) -> dict[str, bytes]:
    """An artifact: `yes` looks along the second axis, three times as hard as `no` along the first."""
    held = {
        "weights": weights or [[1.0, 0, 0], [0, 3.0, 0]],
        "bias": [0.0, 0.0],
        "projections": [[0.0, 0.0, 1.0]],
        **tensors,
    }
    head = save({name: np.array(values, dtype=np.float32) for name, values in held.items()})
    return {WEIGHTS: head, MANIFEST: MANIFEST_OF.to_bytes()}


def scorer() -> HeadScorer:
    return HeadScorer("mood", files(), digest(files()))


def test_a_verdict_holds_the_probability_of_every_label() -> None:
    """The softmax of the linear layer, row by row, in the order of the vectors."""
    north, east = scorer().score(np.array([[0, 1, 0], [1, 0, 0]], dtype=np.float32))
    yes = np.exp(3) / (np.exp(3) + 1)
    assert (north.label, east.label) == ("yes", "no")
    assert north.labels == pytest.approx({"no": 1 - yes, "yes": yes}, abs=1e-6)
    assert north.score == north.labels["yes"]
    assert east.labels == pytest.approx({"no": np.e / (np.e + 1), "yes": 1 / (np.e + 1)}, abs=1e-6)
    assert scorer().score([]) == []


def test_logits_may_be_as_large_as_they_like() -> None:
    """No overflow: the largest is taken off before the exponential."""
    large = HeadScorer("mood", files(weights=[[1e4, 0, 0], [0, 1e4, 0]]), "d")
    [verdict] = large.score(np.array([[1, 0, 0]], dtype=np.float32))
    assert verdict.labels == {"no": 1.0, "yes": 0.0}


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 2), dtype=np.float32), r"scorer mood: expected 3 dimensions, got vectors of shape \(2, 2\)"),
        (np.ones((2, 4), dtype=np.float32), "expected 3 dimensions"),
        (np.array([[np.nan, 0, 0]], dtype=np.float32), "not numbers"),
    ],
)
def test_vectors_that_it_does_not_understand_are_rejected(vectors: np.ndarray, message: str) -> None:
    """Of another size, shortened ones too, or not finite."""
    with pytest.raises(ScoringFailed, match=message):
        scorer().score(vectors)


def test_it_understands_its_own_embedder_only() -> None:
    """Vectors of other weights are a reject that names both."""
    require_model(scorer(), MODEL)
    with pytest.raises(ScoringFailed, match="with weights dddddddddddd, this one is of eeeeeeeeeeee"):
        require_model(scorer(), "e" * 64)


def test_the_version_is_the_artifact() -> None:
    """Its digest's first digits; another weight is another version."""
    assert scorer().version == digest(files())[:12]
    assert digest(files(bias=[0.0, 0.5])) != digest(files())


def test_a_head_is_loaded_from_a_store_that_checks_it(tmp_path: Path) -> None:
    """A changed byte, or a digest that is nowhere, is an error and never a score."""
    store = ArtifactStore.at(str(tmp_path))
    kept = store.put(files())
    assert HeadScorer.stored("mood", store, kept).labels == ("no", "yes")
    with pytest.raises(ArtifactMissing):
        HeadScorer.stored("mood", store, "f" * 64)
    path = tmp_path / "artifacts" / kept / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactDamaged):
        HeadScorer.stored("mood", store, kept)


@pytest.mark.parametrize(
    ("artifact", "error", "message"),
    [
        ({MANIFEST: MANIFEST_OF.to_bytes()}, BadHead, r"expected head\.safetensors and manifest\.json"),
        ({**files(), MANIFEST: b"{}"}, BadManifest, "manifest: "),
        ({**files(), WEIGHTS: b"no"}, BadHead, "expected weights, bias and projections"),
        ({**files(), WEIGHTS: save({"bias": np.zeros(2)})}, BadHead, "expected weights, bias and projections"),
        (files(weights=[[1.0, 0, 0]]), BadHead, "do not fit the manifest"),
        (files(bias=[0.0]), BadHead, "do not fit the manifest"),
        (files(bias=[0.0, float("nan")]), BadHead, "not numbers"),
    ],
)
def test_what_is_no_head_is_refused(artifact: dict[str, bytes], error: type[Exception], message: str) -> None:
    """Missing files, wrong shapes, values that are not numbers."""
    with pytest.raises(error, match=message):
        HeadScorer("mood", artifact, "d")
