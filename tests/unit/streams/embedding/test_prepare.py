"""Models become prepared ones, or are refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streams.embedding import export, prepared, quality, tuning
from streams.embedding.embedder import ModelError
from streams.embedding.golden import unpacked, vectors
from streams.embedding.loader import DEFAULT_DIGEST, DEFAULT_MODEL, DEFAULT_REVISION, load
from streams.embedding.onnx_backend import load_onnx
from streams.embedding.prepare import EXACT, Sentences, Workshop
from streams.embedding.quality import LEAST, SAME, QualityTooLow
from streams.embedding.torch_backend import TorchEmbedder
from tests.support.models import kept, prepared_default, sentences

pytestmark = pytest.mark.model

pytest.importorskip("onnxscript", reason="the extra onnx-export is not installed")


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_default_model_passes_its_gate(precision: str, pytestconfig: pytest.Config) -> None:
    """Cosine, ranks and independence are as promised, in the manifest beside where the model comes from."""
    manifest = prepared_default(kept(pytestconfig), precision).manifest

    identity, found = manifest.identity, manifest.quality
    assert (identity.name, identity.revision, identity.digest) == (DEFAULT_MODEL, DEFAULT_REVISION, DEFAULT_DIGEST)
    assert (identity.precision, identity.pooling, identity.dimensions) == (precision, "mean+normalize", 384)
    assert min(found.mean_cosine, found.spearman) >= LEAST
    assert found.neighbours >= SAME
    assert found.min_cosine >= (EXACT if precision == "float32" else 0.98)
    assert {"torch", "onnxruntime"} <= manifest.tools.keys()


def test_a_kept_figure_is_the_figure_of_the_file(pytestconfig: pytest.Config) -> None:
    """Quality and golden vectors of the int8 model are what the file gives when it is loaded again."""
    found, exact = (prepared_default(kept(pytestconfig), precision) for precision in ("int8", "float32"))
    embedder = load_onnx(found)
    texts = sentences().held_out

    again = quality.measure(embedder, texts, quality.alone(load_onnx(exact), texts))

    assert again.mean_cosine == pytest.approx(found.manifest.quality.mean_cosine, abs=1e-5)
    assert again.spearman == pytest.approx(found.manifest.quality.spearman, abs=1e-4)
    assert np.einsum("ij,ij->i", vectors(embedder), unpacked(found.manifest.golden)).min() > 0.99999


def test_held_out_sentences_play_no_other_part() -> None:
    """The sentences that judge are not among those that calibrate, there are enough, and always the same."""
    split = sentences()

    assert not set(split.calibration) & set(split.held_out)
    assert len(split.held_out) >= 400
    assert 150 <= len(split.calibration) <= 250
    assert split == sentences()
    assert Sentences.split(["a", "b", "a", " ", "c", "d", "e", "f"]).held_out == ["e"]


def test_prompt_and_missing_normalisation_come_along(tiny_source: Path, tiny_models: Path) -> None:
    """What is not in the weights is prepared too: prompt, pooling, limit; vectors equal torch's."""
    original = load(str(tiny_source))
    [found] = prepared.listing(tiny_models)
    embedder = load_onnx(found)

    texts = ["Short.", "Größe, naïve, 日本語", "", "The rain came down " * 30]
    ours, theirs = (each.embed(each.tokenise(texts)) for each in (embedder, original))

    assert embedder.identity == original.identity
    assert embedder.identity.prompt == "passage: "
    assert embedder.tokenise(texts) == original.tokenise(texts)
    assert np.einsum("ij,ij->i", ours, theirs).min() >= EXACT


def pooled_by_the_first_token(folder: Path) -> None:
    edit(folder / "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)


def with_a_dense_layer(folder: Path) -> None:
    from safetensors.torch import save_file

    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "2_Dense").mkdir()
    activation = "torch.nn.modules.activation.Tanh"
    settings = {"in_features": 16, "out_features": 4, "bias": True, "activation_function": activation}
    (folder / "2_Dense/config.json").write_text(json.dumps(settings))
    weights = {"linear.weight": torch.randn(4, 16), "linear.bias": torch.randn(4)}
    save_file(weights, folder / "2_Dense/model.safetensors")


@pytest.mark.parametrize(
    ("change", "pooling", "dimensions"),
    [(pooled_by_the_first_token, "cls", 16), (with_a_dense_layer, "mean+dense", 4)],
)
def test_other_ways_of_pooling_come_along(
    change: Callable[[Path], None], pooling: str, dimensions: int, tiny: Path, tmp_path: Path
) -> None:
    """Whatever modules a model has are in its graph: the preparation itself compares vectors with torch's."""
    change(tiny)

    made = Workshop(tmp_path / "models", sentences()).prepare(str(tiny), None, "float32")

    assert (made.manifest.identity.pooling, made.manifest.identity.dimensions) == (pooling, dimensions)
    assert made.manifest.quality.min_cosine >= EXACT


def test_preparing_again_does_nothing(tiny_source: Path, models: Path) -> None:
    """What is prepared is found, files untouched, and nothing is said about any work."""
    said: list[str] = []
    [before] = prepared.listing(models)

    again = Workshop(models, sentences(), said.append).prepare(str(tiny_source), None, "float32")

    assert again == before
    assert said == []


def test_another_processor_is_measured_anew(tiny_source: Path, models: Path) -> None:
    """A model that was prepared elsewhere keeps its files and gets a budget for this machine."""
    [before] = prepared.listing(models)
    assert before.manifest.budget is not None
    elsewhere = replace(before.manifest.budget, processor="another")
    prepared.amended(before, budget=elsewhere)
    assert load_onnx(prepared.listing(models)[0]).token_budget == tuning.USUAL

    again = Workshop(models, sentences()).prepare(str(tiny_source), None, "float32")

    assert again.manifest.budget is not None
    assert again.manifest.budget.processor == tuning.processor()
    assert again.manifest.files == before.manifest.files


def test_the_embedder_without_a_model_is_refused(tmp_path: Path) -> None:
    """`deterministic` is no model: nobody asks a hub for it."""
    with pytest.raises(ModelError, match="deterministic: there is nothing to prepare"):
        Workshop(tmp_path, sentences()).prepare("deterministic", None, "float32")


def test_a_change_of_configuration_is_another_model(tiny: Path, models: Path) -> None:
    """The same weights with another prompt are prepared on their own, beside the others."""
    edit(tiny / "config_sentence_transformers.json", prompts={"passage": "text: "})

    made = Workshop(models, sentences()).prepare(str(tiny), None, "float32")

    assert made.manifest.identity.prompt == "text: "
    assert len(prepared.listing(models)) == 2


def test_a_graph_that_is_wrong_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the exported graph gives other vectors than the model, nothing is kept, and torch is named as the way."""
    original = export._trace

    def traced_with_noise(embedder: TorchEmbedder, file: Path) -> None:
        with torch.no_grad():
            embedder.rows.model[0].auto_model.embeddings.LayerNorm.bias += torch.linspace(-0.1, 0.1, 16)
        original(embedder, file)

    monkeypatch.setattr(export, "_trace", traced_with_noise)

    with pytest.raises(ModelError, match=r"tiny-model.* cannot be exported, only served by torch: cosine"):
        Workshop(tmp_path / "models", sentences()).prepare(str(tiny), None, "float32")
    assert list((tmp_path / "models").iterdir()) == []


def test_int8_below_the_gate_is_refused(tiny_source: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that 8 bits would spoil stays float32; the error says which figures it had."""
    monkeypatch.setattr(quality, "LEAST", 1.1)

    with pytest.raises(QualityTooLow, match=r"mean cosine [\d.]+ and rank correlation [\d.]+ .* on \d+ sentences"):
        Workshop(models, sentences()).prepare(str(tiny_source), None, "int8")
    assert [found.manifest.identity.precision for found in prepared.listing(models)] == ["float32"]


def test_what_torch_cannot_trace_is_one_clear_line(tiny: Path, tmp_path: Path) -> None:
    """A model that decides by its data what to do has no graph; the error is one line, and nothing is left behind."""
    edit(tiny / "1_Pooling/config.json", include_prompt=False)

    with pytest.raises(ModelError, match=r"tiny-model: .* only served by torch: .*data-dependent") as caught:
        Workshop(tmp_path / "models", sentences()).prepare(str(tiny), None, "float32")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_damaged_model_is_not_taken_for_prepared(tiny_source: Path, models: Path) -> None:
    """Preparing again finds the damage instead of saying that all is well."""
    [found] = prepared.listing(models)
    (found.folder / prepared.GRAPH).write_bytes(b"damaged")

    with pytest.raises(prepared.Damaged):
        Workshop(models, sentences()).prepare(str(tiny_source), None, "float32")

    shutil.rmtree(found.folder)
    Workshop(models, sentences()).prepare(str(tiny_source), None, "float32").verified()
