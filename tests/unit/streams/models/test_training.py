"""Training: heads against an independent softmax and against labels that vectors decide; the same in, the same out."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from streams.embedding.embedder import Identity
from streams.models import training
from streams.models.artifacts import digest
from streams.models.datasets import Dataset
from streams.models.manifest import MANIFEST, Manifest
from streams.models.training import CannotTrain, Embedded, HeadKind, Recipe, Trained, histogram, train
from streams.scoring.head import HeadScorer

IDENTITY = Identity("compass", "1", "d" * 64, "float32", "", "mean", 12, 8)
HEADS: tuple[HeadKind, ...] = ("logistic", "ridge")
USUAL = Recipe()


def labelled(rows: int = 300, labels: int = 3, noise: float = 0.25, seed: int = 3) -> tuple[Dataset, Embedded]:
    """Sentences whose vectors lie around their label's, so that most of them can be told apart."""
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, labels, rows)
    vectors = np.eye(12)[classes] + noise * draw.standard_normal((rows, 12))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    dataset = Dataset(tuple(f"sentence {n}" for n in range(rows)), tuple(f"label {n}" for n in classes))
    return dataset, Embedded(vectors.astype(np.float32), draw.integers(3, 20, rows), 0.25)


def trained(recipe: Recipe = USUAL, labels: int = 3) -> Trained:
    return train(*labelled(labels=labels), IDENTITY, recipe)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("labels", [2, 3])
def test_a_head_learns_what_vectors_decide(head: HeadKind, labels: int) -> None:
    """Of sentences it has not seen, too, and its confidence is about as often right as it says."""
    made = trained(Recipe(head), labels)
    metrics = made.manifest.metrics
    assert metrics["accuracy"] > 0.95
    assert metrics["macro_f1"] > 0.95
    assert metrics["ece"] < 0.05
    dataset, fresh = labelled(labels=labels, seed=4)
    verdicts = HeadScorer("mood", made.files, digest(made.files)).score(fresh.vectors)
    assert np.mean([one.label == label for one, label in zip(verdicts, dataset.labels, strict=True)]) > 0.95


def test_calibration_makes_a_ridge_as_sure_as_it_is_right() -> None:
    """Its raw values lie between -1 and 1, and their softmax is unsure of everything."""
    metrics = trained(Recipe("ridge")).manifest.metrics
    assert metrics["ece_uncalibrated"] > 0.2
    assert metrics["ece"] < 0.05


def test_labels_that_vectors_do_not_decide_are_not_learned() -> None:
    """A cross-validation shows it: each sentence is judged by a head that has not seen it."""
    dataset, embedded = labelled(rows=120)
    shuffled = np.random.default_rng(0).permutation(dataset.labels)
    made = train(replace(dataset, labels=tuple(shuffled)), embedded, IDENTITY, Recipe(regularisation=1e-4))
    assert made.manifest.metrics["accuracy"] < 0.5


@pytest.mark.parametrize("head", HEADS)
def test_the_same_in_is_the_same_out(head: HeadKind) -> None:
    """Data, recipe and seed decide the digest; another of any of them is another version."""
    first = digest(trained(Recipe(head)).files)
    assert digest(trained(Recipe(head)).files) == first
    other_data = train(*labelled(rows=301), IDENTITY, Recipe(head))
    other_model = train(*labelled(), replace(IDENTITY, digest="e" * 64), Recipe(head))
    others = [trained(Recipe(head, seed=1)), trained(Recipe(head, regularisation=0.5)), other_data, other_model]
    assert len({first, *(digest(made.files) for made in others)}) == 5


def test_another_process_makes_the_same() -> None:
    """Nothing of a process (hash seeds, threads, times) is in the artifact."""
    code = (
        "from importlib.util import module_from_spec, spec_from_file_location as at\n"
        f"spec = at('here', {__file__!r}); here = module_from_spec(spec); spec.loader.exec_module(here)\n"
        "print(here.digest(here.trained().files), end='')"
    )
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == digest(trained().files)


def test_the_manifest_says_what_it_was_made_from() -> None:
    """Data, base model, recipe, libraries and labels; it reads back as it is."""
    dataset, embedded = labelled()
    made = train(dataset, embedded, IDENTITY, Recipe("ridge", seed=7), place="data/" + "a" * 64)
    manifest = Manifest.read(made.files[MANIFEST])
    assert manifest == made.manifest
    assert manifest.labels == ("label 0", "label 1", "label 2")
    assert (manifest.data.digest, manifest.data.rows) == (dataset.digest, 300)
    assert manifest.data.labels == dataset.counts
    assert (manifest.base.name, manifest.base.digest, manifest.base.dimensions) == ("compass", "d" * 64, 12)
    assert manifest.parameters == {"head": "ridge", "regularisation": 1.0, "folds": 5, "seed": 7}
    assert {"numpy", "scikit-learn"} <= manifest.libraries.keys()


def test_the_baseline_is_what_the_training_data_looked_like() -> None:
    """A histogram of each label's scores, of each projection and of the lengths; every sentence is in each."""
    dataset, embedded = labelled()
    made = train(dataset, embedded, IDENTITY, Recipe())
    baseline = made.manifest.baseline
    histograms = [*baseline.scores.values(), *baseline.projections, baseline.tokens]
    assert len(histograms) == 3 + training.PROJECTIONS + 1
    assert all(found is not None and sum(found.counts) == 300 for found in histograms)
    reference = HeadScorer("mood", made.files, digest(made.files)).reference
    assert reference is not None
    directions = reference.directions
    first = baseline.projections[0]
    counted = np.histogram(embedded.vectors @ directions[0], [-np.inf, *first.edges, np.inf])[0]
    assert np.abs(counted - first.counts).max() <= 1  # a value may lie on an edge
    assert sum(baseline.shares.values()) == pytest.approx(1)
    assert baseline.truncated == 0.25


@pytest.mark.parametrize(
    ("values", "edges", "counts"),
    [
        (range(10), [0.9, 1.8, 2.7, 3.6, 4.5, 5.4, 6.3, 7.2, 8.1], [1] * 10),
        ([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0.2, 1.0], [8, 0, 2]),
        ([5, 5, 5], [], [3]),
    ],
)
def test_bins_hold_as_many_each_as_ties_allow(values: list[int], edges: list[float], counts: list[int]) -> None:
    """Deciles of the values; a value that is there many times is one bin."""
    found = histogram(np.array(values, dtype=np.float64))
    assert found.edges == pytest.approx(edges)
    assert found.counts == tuple(counts)


def test_the_figures_agree_with_a_count_by_hand() -> None:
    """Two of four are right; the error is the mean gap between confidence and that."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    classes = np.array([0, 1, 1, 0])
    assert training.log_loss(probabilities, classes) == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.4]).mean())
    assert training.calibration_error(probabilities, classes) == pytest.approx((0.4 + 0.1) / 2)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(folds=1), "folds: expected 2 to 5, as many as there are examples of 'few'"),
        (Recipe(folds=6), "folds: expected 2 to 5"),
        (Recipe(regularisation=0.0), "regularisation: expected more than 0"),
        (Recipe(regularisation=float("nan")), "regularisation: expected more than 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(recipe: Recipe, message: str) -> None:
    """Before anything is computed, with what would fit."""
    dataset, embedded = labelled(rows=20, labels=2)
    few = replace(dataset, labels=("few",) * 5 + ("many",) * 15)
    with pytest.raises(CannotTrain, match=message):
        train(few, embedded, IDENTITY, recipe)
