"""The check that keeps a wrong model out of the group."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streams.embedding import golden
from streams.embedding.embedder import Tokens, Vectors
from streams.embedding.golden import GoldenMismatch
from streams.embedding.torch_backend import TorchEmbedder
from streams.testing import DeterministicEmbedder


class Spoilt(DeterministicEmbedder):
    """Does something wrong with a batch's rows."""

    def __init__(self, spoil: Any) -> None:
        super().__init__()
        self.spoil = spoil

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        vectors: Vectors = self.spoil(super().embed(batch))
        return vectors


@pytest.mark.model
def test_the_default_model_gives_its_stored_vectors(embedder: TorchEmbedder) -> None:
    """The default model passes, and was compared with stored vectors of its own."""
    assert golden.stored_vectors(embedder.identity) is not None
    golden.check(embedder)


@pytest.mark.model
def test_a_perturbed_weight_is_noticed(embedder: TorchEmbedder) -> None:
    """One layer's weights off by a few percent fail the check, which names the sentence and the cosine."""
    weight = dict(embedder._model.named_parameters())["0.model.encoder.layer.3.output.dense.weight"]
    original = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    try:
        with torch.no_grad():
            weight += 0.02 * noise
        with pytest.raises(GoldenMismatch, match=r"sentence \d+: cosine 0\.\d+ now and as stored"):
            golden.check(embedder)
    finally:
        with torch.no_grad():
            weight.copy_(original)


@pytest.mark.model
def test_the_stored_vectors_can_be_written_again(
    default_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented command gives the file that ships: same sentences, same vectors up to rounding."""
    shipped = golden._FILE.read_text()
    monkeypatch.setattr(golden, "_FILE", tmp_path / "golden.json")
    golden._FILE.write_text(shipped)

    golden._write()

    before, after = json.loads(shipped), json.loads(golden._FILE.read_text())
    assert after | {"vectors": []} == before | {"vectors": []}
    for old, new in zip(before["vectors"], after["vectors"], strict=True):
        cosine = np.dot(*(np.frombuffer(base64.b64decode(vector), "<f4") for vector in (old, new)))
        assert cosine >= 0.99999


def test_a_model_without_stored_vectors_passes_on_its_properties() -> None:
    """Any sound embedder passes: only finite, unit length, batch-independent vectors can be asked of it."""
    assert golden.stored_vectors(DeterministicEmbedder.identity) is None
    golden.check(DeterministicEmbedder())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows * 1.01, r"sentence 1: vector of length 1\.01"),
        (lambda rows: rows * np.float32(np.nan), "sentence 1: vector of length nan"),
        (lambda rows: rows[:, :100], "shape"),
        (lambda rows: np.roll(rows, 1, axis=0), r"sentence \d: cosine .* alone and in a batch"),
        (lambda rows: rows[: max(len(rows) - 1, 1)], "alone and in a batch"),
    ],
    ids=["length", "not finite", "dimensions", "order", "row missing"],
)
def test_an_unsound_embedder_fails(spoil: Any, message: str) -> None:
    """Each property that every model must have is checked, and the message says which one failed."""
    with pytest.raises(GoldenMismatch, match=message):
        golden.check(Spoilt(spoil))
