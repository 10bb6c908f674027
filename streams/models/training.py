"""From vectors and labels to a head: a linear layer over an embedder's vectors, calibrated, with what it achieved.

A pure function: the same vectors, labels, recipe and versions of libraries give the same files, so the same digest.
Figures and baselines come from a cross-validation: each sentence is judged by a head that has not seen it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from schemas.errors import StreamsError
from streams.embedding.embedder import Identity, Vectors
from streams.embedding.processors import processors
from streams.models.datasets import Dataset
from streams.models.manifest import MANIFEST, Base, Baseline, Histogram, Manifest, TrainingData
from streams.observe.release import release
from streams.scoring.head import WEIGHTS

HeadKind = Literal["logistic", "ridge"]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]

#: Directions along which the vectors' distribution is kept, and bins of every histogram.
PROJECTIONS, BINS = 8, 10
#: Regularisation where the recipe names none: what suits vectors of unit length.
USUAL = {"logistic": 0.1, "ridge": 1.0}
_LIBRARIES = ("numpy", "scikit-learn", "scipy")
#: Bounds of the calibration: factors from e^-6 to e^6.
_SCALES = (-6.0, 6.0)


class CannotTrain(StreamsError):
    """These parameters do not fit these labels; the message says what would."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train."""

    head: HeadKind = "logistic"
    #: L2 penalty: 1/C of the logistic head, alpha of the ridge; None is USUAL.
    regularisation: float | None = None
    #: Parts of the cross-validation.
    folds: int = 5
    #: Decides how sentences are dealt to the folds, and the directions of the projections.
    seed: int = 0

    @property
    def penalty(self) -> float:
        return USUAL[self.head] if self.regularisation is None else self.regularisation


@dataclass(frozen=True, slots=True)
class Embedded:
    """The sentences of a data set as the model sees them, in its order."""

    #: Unit vectors, shape (n, dimensions).
    vectors: Vectors
    #: Tokens of each sentence, shape (n,).
    tokens: NDArray[np.int64]
    #: Share of sentences that were cut, 0 to 1.
    truncated: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A version: its artifact's files, and the manifest among them."""

    files: dict[str, bytes]
    manifest: Manifest


def train(
    dataset: Dataset,
    embedded: Embedded,
    identity: Identity,
    recipe: Recipe,
    place: str | None = None,
    step: Callable[[int, int], None] = lambda _done, _of: None,
) -> Trained:
    """Trains, judges and packs a head. Raises CannotTrain.

    `place` is where the data set is kept; `step` hears how many of the heads are fitted.
    """
    from threadpoolctl import threadpool_limits

    names, classes = np.unique(np.array(dataset.labels), return_inverse=True)
    labels = tuple(map(str, names))
    _check(dataset, recipe)
    vectors = embedded.vectors.astype(np.float64)
    with threadpool_limits(limits=1):  # sums in another order have other last digits
        folds = list(_folds(classes, recipe))
        logits, (weights, bias) = _all_fitted(vectors, classes, folds, recipe, step)
        scale = calibrate(logits, classes)
        calibrated = _calibrated_unseen(logits, classes, folds)
        directions = _directions(vectors.shape[1], recipe.seed)
        baseline = _baseline(labels, calibrated, vectors @ directions.T, embedded)
        metrics = _metrics(calibrated, softmax(logits), classes, scale)
    manifest = Manifest(
        head=recipe.head,
        labels=labels,
        base=Base(
            name=identity.name,
            revision=identity.revision,
            digest=identity.digest,
            precision=identity.precision,
            dimensions=identity.dimensions,
        ),
        data=TrainingData(digest=dataset.digest, place=place, rows=len(dataset.texts), labels=dataset.counts),
        parameters={**asdict(recipe), "regularisation": recipe.penalty},
        seed=recipe.seed,
        libraries={name: version(name) for name in _LIBRARIES},
        code=release(),
        metrics=metrics,
        baseline=baseline,
    )
    tensors = {"weights": weights * scale, "bias": bias * scale, "projections": directions}
    head = save({name: np.ascontiguousarray(tensor, dtype=np.float32) for name, tensor in tensors.items()})
    return Trained({WEIGHTS: head, MANIFEST: manifest.to_bytes()}, manifest)


def _check(dataset: Dataset, recipe: Recipe) -> None:
    label, least = min(dataset.counts.items(), key=lambda item: item[1])
    if not 2 <= recipe.folds <= least:
        raise CannotTrain(f"folds: expected 2 to {least}, as many as there are examples of {label!r}")
    if not 0 < recipe.penalty < 1e9:
        raise CannotTrain(f"regularisation: expected more than 0 and less than 1e9, got {recipe.penalty:g}")


# -- heads ----------------------------------------------------------------------------------------------------


def _estimator(recipe: Recipe) -> Any:
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    if recipe.head == "logistic":
        return LogisticRegression(C=1 / recipe.penalty, max_iter=1000)
    return RidgeClassifier(alpha=recipe.penalty)


def _fitted(vectors: Floats, classes: Places, recipe: Recipe) -> tuple[Floats, Floats]:
    """Weights (labels, dimensions) and bias (labels,) whose softmax are the labels' probabilities, not calibrated."""
    fitted = _estimator(recipe).fit(vectors, classes)
    weights, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    if len(weights) == 1:  # of two labels scikit-learn keeps the second one's side alone
        return np.vstack([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    return weights, bias


def _folds(classes: Places, recipe: Recipe) -> Iterator[tuple[Places, Places]]:
    from sklearn.model_selection import StratifiedKFold

    dealt = StratifiedKFold(recipe.folds, shuffle=True, random_state=recipe.seed)
    yield from dealt.split(np.zeros(len(classes)), classes)


def _all_fitted(
    vectors: Floats,
    classes: Places,
    folds: Sequence[tuple[Places, Places]],
    recipe: Recipe,
    step: Callable[[int, int], None],
) -> tuple[Floats, tuple[Floats, Floats]]:
    """Logits of each sentence by a head trained without its fold, shape (n, labels); and the head of all sentences.

    A head a processor at a time, each on one thread: faster, and the same digits.
    """
    parts = [*(seen for seen, _ in folds), np.arange(len(classes))]
    heads: list[tuple[Floats, Floats]] = []
    with ThreadPoolExecutor(processors()) as pool:
        for head in pool.map(lambda part: _fitted(vectors[part], classes[part], recipe), parts):
            heads.append(head)
            step(len(heads), len(parts))
    logits = np.empty((len(classes), len(heads[-1][1])))
    for (_, unseen), (weights, bias) in zip(folds, heads, strict=False):
        logits[unseen] = vectors[unseen] @ weights.T + bias
    return logits, heads[-1]


# -- calibration ----------------------------------------------------------------------------------------------


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row, shape (n, labels)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def calibrate(logits: Floats, classes: Places) -> float:
    """The factor to logits whose probabilities explain the classes best (temperature scaling, Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda power: log_loss(softmax(logits * np.exp(power)), classes), bounds=_SCALES)
    return float(np.exp(found.x))


def _calibrated_unseen(logits: Floats, classes: Places, folds: Sequence[tuple[Places, Places]]) -> Floats:
    """Probabilities of each sentence, calibrated without its fold."""
    calibrated = np.empty_like(logits)
    for seen, unseen in folds:
        calibrated[unseen] = softmax(logits[unseen] * calibrate(logits[seen], classes[seen]))
    return calibrated


# -- figures --------------------------------------------------------------------------------------------------


def log_loss(probabilities: Floats, classes: Places) -> float:
    """Mean of -log of the true class's probability."""
    true = probabilities[np.arange(len(classes)), classes]
    return float(-np.log(np.clip(true, 1e-15, None)).mean())


def calibration_error(probabilities: Floats, classes: Places) -> float:
    """Expected calibration error: how far confidence and accuracy are apart, in ten bins of equal width."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(classes))


def _metrics(calibrated: Floats, raw: Floats, classes: Places, scale: float) -> dict[str, float]:
    from sklearn.metrics import f1_score

    best = calibrated.argmax(axis=1)
    hot = np.eye(calibrated.shape[1])[classes]
    return {
        "accuracy": float((best == classes).mean()),
        "macro_f1": float(f1_score(classes, best, average="macro", zero_division=0.0)),
        "log_loss": log_loss(calibrated, classes),
        "brier": float(np.square(calibrated - hot).sum(axis=1).mean()),
        "ece": calibration_error(calibrated, classes),
        "ece_uncalibrated": calibration_error(raw, classes),
        "scale": scale,
    }


# -- baseline -------------------------------------------------------------------------------------------------


def _directions(dimensions: int, seed: int) -> Floats:
    """Random unit vectors, shape (PROJECTIONS, dimensions)."""
    drawn = np.random.default_rng(seed).standard_normal((PROJECTIONS, dimensions))
    directions: Floats = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    # As they are stored: who projects later must find the bins of now.
    return directions.astype(np.float32).astype(np.float64)


def histogram(values: Floats | NDArray[np.int64]) -> Histogram:
    """As many values in each of ten bins as ties allow; the outer bins are open."""
    inner = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = inner[inner > values.min()]  # else the first bin would be empty by its making
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _baseline(labels: tuple[str, ...], calibrated: Floats, projected: Floats, embedded: Embedded) -> Baseline:
    shares = np.bincount(calibrated.argmax(axis=1), minlength=len(labels)) / len(calibrated)
    return Baseline(
        scores={label: histogram(column) for label, column in zip(labels, calibrated.T, strict=True)},
        projections=tuple(histogram(column) for column in projected.T),
        shares=dict(zip(labels, shares.tolist(), strict=True)),
        tokens=histogram(embedded.tokens),
        truncated=embedded.truncated,
    )
