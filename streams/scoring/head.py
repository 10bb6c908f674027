"""A trained head: a linear layer over the vectors of the embedder it was trained on; values are probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from schemas.errors import ScoringFailed, StreamsError
from streams.embedding.embedder import Vectors
from streams.models.artifacts import ArtifactStore
from streams.models.manifest import MANIFEST, Manifest
from streams.scoring.drift import Reference
from streams.scoring.scorer import Needs, Verdict

#: The weights' name in an artifact.
WEIGHTS = "head.safetensors"
#: Digits of an artifact's digest that are a version.
VERSION_DIGITS = 12


class BadHead(StreamsError):
    """An artifact is no head: its weights are missing, or do not fit its manifest."""


class HeadScorer:
    """Scorer by one matrix product a batch, and a softmax; a verdict's values are calibrated probabilities."""

    needs: Needs = "vector"
    bounds = (0.0, 1.0)

    def __init__(self, name: str, files: Mapping[str, bytes], digest: str) -> None:
        """`files` and `digest` are an artifact's, checked by its store. Raises BadHead, BadManifest."""
        self.name = name
        self.digest = digest
        self.version = digest[:VERSION_DIGITS]
        self.manifest = _manifest(files)
        self.model: str | None = self.manifest.base.digest
        self.labels = self.manifest.labels
        self._weights, self._bias, projections = _tensors(files, self.manifest)
        self.reference: Reference | None = Reference(self.manifest.baseline, projections)

    @classmethod
    def stored(cls, name: str, store: ArtifactStore, digest: str) -> "HeadScorer":
        """The head of an artifact. Raises BadHead, BadManifest, and what the store raises."""
        return cls(name, store.get(digest), digest)

    def score(self, inputs: Sequence[Vectors] | Vectors) -> list[Verdict]:
        """Verdicts for unit vectors, shape (n, d) with all of the embedder's dimensions.

        Raises ScoringFailed for vectors of another size, or not finite.
        """
        if len(inputs) == 0:
            return []
        probabilities = self.probabilities(np.asarray(inputs, dtype=np.float32))
        winners = probabilities.argmax(axis=1).tolist()
        labels = self.labels
        return [
            Verdict(labels[best], row[best], dict(zip(labels, row, strict=True)))
            for row, best in zip(probabilities.tolist(), winners, strict=True)
        ]

    def probabilities(self, vectors: Vectors) -> NDArray[np.float32]:
        """Probability of each label, shape (n, labels). Raises ScoringFailed as `score` does."""
        if vectors.ndim != 2 or vectors.shape[1] != self._weights.shape[1]:
            expected = self._weights.shape[1]
            raise ScoringFailed(
                f"scorer {self.name}: expected {expected} dimensions, got vectors of shape {vectors.shape}"
            )
        logits = vectors @ self._weights.T + self._bias
        if not np.isfinite(logits).all():
            raise ScoringFailed(f"scorer {self.name}: a vector holds values that are not numbers")
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def _manifest(files: Mapping[str, bytes]) -> Manifest:
    if not {WEIGHTS, MANIFEST} <= files.keys():
        raise BadHead(f"expected {WEIGHTS} and {MANIFEST} in the artifact, it has {', '.join(sorted(files))}")
    return Manifest.read(files[MANIFEST])


def _tensors(files: Mapping[str, bytes], manifest: Manifest) -> tuple[Vectors, Vectors, Vectors]:
    """Weights (labels, dimensions), bias (labels,) and projections (k, dimensions)."""
    try:
        found = load(files[WEIGHTS])
        weights, bias, projections = found["weights"], found["bias"], found["projections"]
    except (SafetensorError, KeyError) as error:
        raise BadHead(f"{WEIGHTS}: expected weights, bias and projections: {error}") from None
    shape = len(manifest.labels), manifest.base.dimensions
    fits = weights.shape == shape and bias.shape == shape[:1] and projections.shape[1:] == shape[1:]
    if not fits or not all(np.isfinite(each).all() for each in (weights, bias, projections)):
        raise BadHead(f"{WEIGHTS}: its tensors do not fit the manifest, or hold values that are not numbers")
    return weights, bias, projections
