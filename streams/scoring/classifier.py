"""Classifiers and cross-encoders: models that read the text itself, as scorers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streams.embedding.embedder import ModelError
from streams.scoring.checkpoint import Checkpoint, Logits
from streams.scoring.drift import Reference
from streams.scoring.scorer import Needs, Pair, Verdict

MULTI_LABEL, REGRESSION = "multi_label_classification", "regression"
#: The one label of a cross-encoder.
RELEVANCE = "relevance"


class NotACrossEncoder(ModelError):
    """The model classifies; it does not say how relevant a text is to another."""


class ClassifierScorer:
    """Scorer by a sequence-classification model; a verdict's values are probabilities.

    Of a single-label model they add up to 1; of a multi-label model, or one with a single label, each is for itself.
    What was trained as a regression gives what it predicts.
    """

    needs: Needs = "text"
    model: str | None = None
    bounds: tuple[float, float]
    reference: Reference | None = None

    def __init__(self, name: str, checkpoint: Checkpoint, multi_label: bool | None = None) -> None:
        """`multi_label`: whether labels exclude each other; None: as the model's configuration says."""
        self.name = name
        self._checkpoint = checkpoint
        self._multi = checkpoint.problem == MULTI_LABEL if multi_label is None else multi_label
        self._regression = checkpoint.problem == REGRESSION and multi_label is None
        kind = "regression" if self._regression else "multi" if self._multi else "single"
        self.version = f"{checkpoint.digest[:12]}-{kind}"
        self.bounds = (-np.inf, np.inf) if self._regression else (0.0, 1.0)

    def score(self, inputs: Sequence[str]) -> list[Verdict]:
        """Verdicts with every label."""
        labels = self._checkpoint.labels
        rows = self._values(self._checkpoint.logits(inputs))
        winners = rows.argmax(axis=1).tolist()
        return [
            Verdict(labels[best], row[best], dict(zip(labels, row, strict=True)))
            for row, best in zip(rows.tolist(), winners, strict=True)
        ]

    def _values(self, logits: Logits) -> NDArray[np.float64]:
        exact = logits.astype(np.float64)
        if self._regression:
            return exact
        if self._multi or exact.shape[1] == 1:
            return sigmoid(exact)
        grown = np.exp(exact - exact.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True))


class CrossEncoderScorer:
    """Scorer of a query and a text: how relevant the text is, from 0 to 1."""

    needs: Needs = "pair"
    model: str | None = None
    bounds = (0.0, 1.0)
    reference: Reference | None = None

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        """Raises ModelError unless the model gives one number."""
        if len(checkpoint.labels) != 1:
            raise NotACrossEncoder(f"scorer {name}: expected a model of one label, got {len(checkpoint.labels)}")
        self.name = name
        self.version = checkpoint.digest[:12]
        self._checkpoint = checkpoint

    def score(self, inputs: Sequence[Pair]) -> list[Verdict]:
        """Verdicts with the one label `relevance`."""
        logits = self._checkpoint.logits([query for query, _ in inputs], [text for _, text in inputs])
        values = sigmoid(logits.astype(np.float64))[:, 0].tolist()
        return [Verdict(RELEVANCE, value, {RELEVANCE: value}) for value in values]


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), for any x without an overflow."""
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
