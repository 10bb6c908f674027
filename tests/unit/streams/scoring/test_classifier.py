"""Classifiers and cross-encoders, on tiny models made on the spot."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import Reject, ScoringFailed
from streams.embedding.embedder import ModelError
from streams.embedding.weights import UnsafeModel
from streams.scoring.checkpoint import Checkpoint
from streams.scoring.classifier import ClassifierScorer, CrossEncoderScorer, NotACrossEncoder, sigmoid
from streams.scoring.loader import ScorerFileError, load_scorers
from streams.scoring.scorer import require_query
from streams.scoring.verdicts import Subject, scored
from streams.testing import DeterministicEmbedder
from tests.support.classifiers import tiny_classifier
from tests.unit.streams.scoring.test_score_stage import EMBEDDING, Words, record, results, scores, stage

TEXTS = ["The cat sleeps.", "Rain", "a dog runs in the harbour " * 20, "Very good"]
LABELS = ("calm", "wild", "other")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three labels that exclude each other."""
    return tiny_classifier(tmp_path_factory.mktemp("classifier"), LABELS)


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder."""
    return tiny_classifier(tmp_path_factory.mktemp("ranker"), ("LABEL_0",))


def theirs(folder: Path, *texts: Any) -> Any:
    """Logits as transformers computes them for one text, or one pair."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokenizer(*texts, return_tensors="pt", truncation=True, max_length=32)).logits[0].numpy()


def test_every_label_has_its_probability(folder: Path) -> None:
    """They add up to one, the best one is the label, and they are what transformers computes of each text alone."""
    verdicts = ClassifierScorer("mood", Checkpoint(str(folder))).score(TEXTS)
    for text, verdict in zip(TEXTS, verdicts, strict=True):
        expected = torch.softmax(torch.from_numpy(theirs(folder, text)), 0).tolist()
        assert list(verdict.labels) == list(LABELS)
        assert list(verdict.labels.values()) == pytest.approx(expected, abs=1e-5)
        assert verdict.label == LABELS[int(np.argmax(expected))]
        assert verdict.score == max(verdict.labels.values())


def test_labels_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    """Each has a probability of its own; the model's configuration says so, or the file of scorers does."""
    folder = tiny_classifier(tmp_path / "multi", LABELS, "multi_label_classification")
    [verdict] = ClassifierScorer("mood", Checkpoint(str(folder))).score(["The cat sleeps."])
    expected = 1 / (1 + np.exp(-theirs(folder, "The cat sleeps.")))
    assert list(verdict.labels.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    single = ClassifierScorer("mood", Checkpoint(str(folder)), multi_label=False)
    assert sum(single.score(["Rain"])[0].labels.values()) == pytest.approx(1)
    assert single.version != ClassifierScorer("mood", Checkpoint(str(folder))).version


def test_a_regression_gives_what_it_predicts(tmp_path: Path) -> None:
    """Without bounds."""
    folder = tiny_classifier(tmp_path / "regression", ("stars",), "regression")
    scorer = ClassifierScorer("stars", Checkpoint(str(folder)))
    [verdict] = scorer.score(["Very good"])
    assert verdict.score == pytest.approx(float(theirs(folder, "Very good")[0]), abs=1e-5)
    assert scorer.bounds == (-np.inf, np.inf)


@pytest.mark.parametrize("budget", [1, 64, 100_000])
def test_batches_fill_a_token_budget_and_change_nothing(budget: int, folder: Path) -> None:
    """However small, every text is scored, in order, as if it were alone."""
    checkpoint = Checkpoint(str(folder), budget=budget)
    sizes: list[tuple[int, int]] = []
    run = checkpoint._run
    checkpoint._run = lambda batch: (  # type: ignore[method-assign]
        sizes.append((len(batch["input_ids"]), max(map(len, batch["input_ids"])))) or run(batch)
    )
    rows = checkpoint.logits(TEXTS)
    assert rows == pytest.approx(np.stack([theirs(folder, text) for text in TEXTS]), abs=1e-5)
    assert all(count == 1 or count * longest <= budget for count, longest in sizes)
    assert len(sizes) == {1: 4, 64: 2, 100_000: 1}[budget]
    assert checkpoint.logits([]).shape == (0, 3)


def test_a_cross_encoder_judges_pairs(ranker: Path) -> None:
    """The sigmoid of its one number, for the query and the text in this order; of a long text the end is lost."""
    scorer = CrossEncoderScorer("rerank", Checkpoint(str(ranker)))
    pairs = [("the cat", text) for text in TEXTS]
    for (query, text), verdict in zip(pairs, scorer.score(pairs), strict=True):
        assert verdict.labels == {"relevance": verdict.score}
        assert verdict.score == pytest.approx(float(sigmoid(theirs(ranker, query, text).astype(float))[0]), abs=1e-5)
    assert scorer.score([("cat", "dog")])[0].score != scorer.score([("dog", "cat")])[0].score


def test_the_query_travels_with_the_text(ranker: Path) -> None:
    """From an embedding that carries one; without one the scorer is left out, and refused where it is named."""
    scorer = CrossEncoderScorer("rerank", Checkpoint(str(ranker)))
    asked, plain, named = results(
        stage(Words(), scorer),
        record(query="the cat", text="The cat sleeps."),
        record(text="The cat sleeps."),
        record(text="The cat sleeps.", scorers=("rerank",)),
    )
    assert [score.scorer for score in scores(asked)] == ["words", "rerank"]
    assert [score.scorer for score in scores(plain)] == ["words"]
    assert isinstance(named, Reject)
    assert "query: scorer rerank judges texts against a query" in str(named)
    [[score]] = scored([Subject(replace(EMBEDDING), "The cat sleeps.", [scorer], "the cat")])
    assert score.score == scorer.score([("the cat", "The cat sleeps.")])[0].score
    with pytest.raises(ScoringFailed):
        require_query(scorer, None)


def test_a_classifier_is_no_cross_encoder(folder: Path) -> None:
    """Which of its labels would be the relevance?"""
    with pytest.raises(NotACrossEncoder, match="expected a model of one label, got 3"):
        CrossEncoderScorer("rerank", Checkpoint(str(folder)))


def test_the_version_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    """The same folder gives the same version; one changed weight gives another."""
    changed = tiny_classifier(tmp_path / "changed", LABELS)
    before = ClassifierScorer("mood", Checkpoint(str(changed))).version
    weights = load_file(changed / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, changed / "model.safetensors", {"format": "pt"})
    assert before == ClassifierScorer("other", Checkpoint(str(folder))).version
    assert before != ClassifierScorer("mood", Checkpoint(str(changed))).version


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    """It could run anything."""
    folder = tiny_classifier(tmp_path / "pickle", LABELS)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModel, match="a pickle can run code"):
        Checkpoint(str(folder))


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    """Though its configuration asks for it."""
    folder = tiny_classifier(tmp_path / "code", LABELS)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "special", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Checkpoint(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_head_is_no_classifier(tmp_path: Path) -> None:
    """transformers would make the missing weights up, at random."""
    folder = tiny_classifier(tmp_path / "headless", LABELS)
    weights = load_file(folder / "model.safetensors")
    save_file({name: each for name, each in weights.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="its weights lack classifier"):
        Checkpoint(str(folder))


def test_they_are_configured_in_the_file_of_scorers(folder: Path, ranker: Path, tmp_path: Path) -> None:
    """Beside those of labels, by name or folder."""
    path = tmp_path / "scorers.toml"
    path.write_text(
        f"[mood]\nclassifier = '{folder}'\nrevision = 'v1'\nfallback = 'previous'\n"
        f"[rerank]\ncross_encoder = '{ranker}'\n[sea.labels]\nship = ['A ship.']\n"
    )
    found = load_scorers(path, DeterministicEmbedder())
    assert [(name, scorer.needs) for name, scorer in found.items()] == [
        ("mood", "text"),
        ("rerank", "pair"),
        ("sea", "vector"),
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("classifier = 3", r"mood\.classifier: expected a model's name or folder, got 3"),
        ("classifier = 'a'\ncross_encoder = 'b'", r"mood: expected one of labels, classifier, cross_encoder, got"),
        ("classifier = 'a'\nmulti_label = 'yes'", r"mood\.multi_label: expected bool, got 'yes'"),
        ("cross_encoder = 'a'\nmulti_label = true", r"mood\.multi_label: unknown key, expected cross_encoder or"),
    ],
)
def test_a_table_that_is_wrong_is_named(table: str, message: str, tmp_path: Path) -> None:
    """Before any model is loaded."""
    path = tmp_path / "scorers.toml"
    path.write_text(f"[mood]\n{table}\n")
    with pytest.raises(ScorerFileError, match=message):
        load_scorers(path, DeterministicEmbedder())
