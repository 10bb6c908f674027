"""Nearest label: each label is the centroid of its example sentences, a sentence gets the closest one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ScoringFailed
from streams.embedding.embedder import Embedder, Identity, Vectors, shorten
from streams.scoring.drift import Reference
from streams.scoring.scorer import Needs, Verdict

_BATCH = 32


class SimilarityScorer:
    """Scorer by cosine with each label's centroid; a verdict's values are cosines, from -1 to 1."""

    needs: Needs = "vector"
    #: Cosines are clipped.
    bounds = (-1.0, 1.0)
    reference: Reference | None = None

    def __init__(self, name: str, labels: Mapping[str, Sequence[str]], embedder: Embedder) -> None:
        """Embed the example sentences of every label (at least one each) and keep their centroids."""
        self.name = name
        self.version = _version(labels, embedder.identity)
        self.model: str | None = embedder.identity.digest
        self._labels = tuple(labels)
        self._centroids = _centroids(list(labels.values()), embedder)

    def score(self, inputs: Sequence[Vectors] | Vectors) -> list[Verdict]:
        """Verdicts for unit vectors, shape (n, d): d as the model has, or fewer where they were shortened.

        One matrix product for all. Raises ScoringFailed for vectors of another size, or not finite.
        """
        if len(inputs) == 0:
            return []
        vectors = np.asarray(inputs, dtype=np.float32)
        centroids = self._for_size(vectors)
        if not np.isfinite(vectors).all():
            raise ScoringFailed(f"scorer {self.name}: a vector holds values that are not numbers")
        cosines = np.clip(vectors @ centroids.T, -1.0, 1.0)
        winners = cosines.argmax(axis=1)
        return [self._verdict(row, best) for row, best in zip(cosines.tolist(), winners, strict=True)]

    def _verdict(self, cosines: list[float], best: int) -> Verdict:
        return Verdict(self._labels[best], cosines[best], dict(zip(self._labels, cosines, strict=True)))

    def _for_size(self, vectors: NDArray[np.float32]) -> Vectors:
        """The centroids as long as the vectors are, shape (labels, d)."""
        full = self._centroids.shape[1]
        if vectors.ndim != 2 or not 1 <= vectors.shape[1] <= full:
            raise ScoringFailed(
                f"scorer {self.name}: expected at most {full} dimensions, got vectors of shape {vectors.shape}"
            )
        return shorten(self._centroids, vectors.shape[1])


def _centroids(labels: Sequence[Sequence[str]], embedder: Embedder) -> Vectors:
    """Mean of each label's example vectors, scaled to unit length, shape (labels, dimensions)."""
    vectors = _embed([sentence for sentences in labels for sentence in sentences], embedder)
    starts = np.cumsum([0, *(len(sentences) for sentences in labels[:-1])])
    sums = np.add.reduceat(vectors, starts, axis=0)
    centroids: Vectors = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return centroids


def _embed(texts: list[str], embedder: Embedder) -> Vectors:
    tokens = embedder.tokenise(texts)
    return np.concatenate([embedder.embed(tokens[at : at + _BATCH]) for at in range(0, len(tokens), _BATCH)])


def _version(labels: Mapping[str, Sequence[str]], identity: Identity) -> str:
    """Twelve hex digits of what decides a verdict: the labels with their examples, and the model."""
    canonical = json.dumps([list(labels.items()), astuple(identity)], ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
