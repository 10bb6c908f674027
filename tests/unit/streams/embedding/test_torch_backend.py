"""The torch backend against sentence-transformers itself."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from streams.embedding.embedder import ModelError
from streams.embedding.loader import DEFAULT_MODEL, load
from streams.embedding.quality import QualityTooLow
from streams.embedding.torch_backend import TorchEmbedder, load_torch

pytestmark = pytest.mark.model

TEXTS = [
    "Short.",
    "Where did you leave the key to the garden door, and who had it before you?",
    "Größe, naïve, ﬁn, 日本語, по-русски 🙂",
    "",
    "The rain came down " * 80,
]


def library(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_vectors_equal_the_librarys_own(embedder: TorchEmbedder, default_folder: Path) -> None:
    """The default model's vectors are those of SentenceTransformer.encode, cosine >= 0.99999."""
    ours = embedder.embed(embedder.tokenise(TEXTS))
    theirs = library(default_folder).encode(TEXTS)

    assert np.einsum("ij,ij->i", ours, theirs).min() >= 0.99999


def test_a_prompt_and_missing_normalisation_are_handled(tiny: Path) -> None:
    """A model with a default prompt and no normalising module gives encode's direction at unit length."""
    embedder = load(str(tiny))
    theirs = library(tiny).encode(TEXTS, normalize_embeddings=True)

    ours = embedder.embed(embedder.tokenise(TEXTS))

    assert embedder.identity.prompt == "passage: "
    assert embedder.identity.pooling == "mean"
    assert (embedder.identity.name, embedder.identity.dimensions, embedder.identity.max_tokens) == (
        "tiny-model",
        16,
        32,
    )
    assert np.einsum("ij,ij->i", ours, theirs).min() >= 0.99999


def test_a_prompt_left_out_of_the_pooling_stays_out(tiny: Path) -> None:
    """Where the model pools without its prompt's tokens, so do we."""
    edit(tiny / "1_Pooling/config.json", include_prompt=False)
    embedder = load(str(tiny))

    theirs = library(tiny).encode(TEXTS, normalize_embeddings=True)

    assert np.einsum("ij,ij->i", embedder.embed(embedder.tokenise(TEXTS)), theirs).min() >= 0.99999


def test_padding_follows_the_models_side(tiny: Path) -> None:
    """A tokenizer that pads on the left gets its padding there: same vectors as the library."""
    edit(tiny / "tokenizer_config.json", padding_side="left")
    embedder = load_torch(tiny, name="tiny", revision="1", digest="00")

    theirs = library(tiny).encode(TEXTS, normalize_embeddings=True)

    assert np.einsum("ij,ij->i", embedder.embed(embedder.tokenise(TEXTS)), theirs).min() >= 0.99999


def test_a_document_is_cut_as_if_it_had_been_read_whole(embedder: TorchEmbedder) -> None:
    """Reading only a document's head gives the tokens of the whole, also when the head is nearly empty."""
    words = "the rain came down on the roof " * 10_000
    spaced = " " * 100_000 + "the rain came down"

    assert embedder.tokenise([words]) == embedder.tokenise([words[:8_000]])
    assert embedder.tokenise([words])[0].truncated
    assert embedder.tokenise([spaced]) == embedder.tokenise(["the rain came down"])


@pytest.fixture
def failing(embedder: TorchEmbedder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the model's forward pass raise what the test says."""

    def fail_with(error: Exception) -> None:
        def forward(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(embedder, "rows", forward)

    return fail_with


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["cuda", "processor"],
)
def test_out_of_memory_is_told_apart(embedder: TorchEmbedder, failing: Any, error: Exception) -> None:
    """Too large a batch is a MemoryError on every device, so that the caller can try a smaller one."""
    tokens = embedder.tokenise(["a"])
    failing(error)

    with pytest.raises(MemoryError, match="batch of 1 texts"):
        embedder.embed(tokens)


def test_other_failures_stay_what_they_are(embedder: TorchEmbedder, failing: Any) -> None:
    """An error that is not about memory is not hidden as one."""
    tokens = embedder.tokenise(["a"])
    failing(RuntimeError("index out of range"))

    with pytest.raises(RuntimeError, match="index out of range"):
        embedder.embed(tokens)


def test_float16_keeps_the_vectors_and_says_so(tiny: Path) -> None:
    """Halved weights pass the gate on the golden sentences, give float32 rows, and are another identity."""
    exact = load_torch(tiny, name="tiny", revision="1", digest="00")
    before = exact.embed(exact.tokenise(TEXTS))

    halved = load_torch(tiny, name="tiny", revision="1", digest="00").halved()

    rows = halved.embed(halved.tokenise(TEXTS))
    assert halved.identity == replace(exact.identity, precision="float16")
    assert rows.dtype == np.float32
    assert 0.999 < np.einsum("ij,ij->i", rows, before).min() < 1


def test_float16_that_loses_too_much_is_refused(tiny: Path) -> None:
    """Weights beyond what float16 can hold end in NaN, and the gate says no."""
    embedder = load_torch(tiny, name="tiny", revision="1", digest="00")
    with torch.no_grad():
        embedder._model[0].auto_model.embeddings.LayerNorm.weight.mul_(1e6)

    with pytest.raises(QualityTooLow):
        embedder.halved()


def test_float16_needs_a_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the processor float16 would only be slow: one clear error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ModelError, match="float16: needs a CUDA device"):
        load(str(tiny), precision="float16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: its path of the torch backend was not run")
def test_a_cuda_device_gives_the_processors_vectors(default_folder: Path) -> None:
    """On a device, from two threads at once and in both precisions, vectors are the processor's."""
    sentences = [f"{text} {number}" for number in range(200) for text in TEXTS]
    theirs = library(default_folder).encode(sentences)
    for precision, least in (("float32", 0.9999), ("float16", 0.995)):
        embedder = load(DEFAULT_MODEL, precision=precision)
        assert (embedder.concurrency, embedder.identity.precision) == (2, precision)
        halves = [embedder.tokenise(sentences[:500]), embedder.tokenise(sentences[500:])]
        with ThreadPoolExecutor(2) as threads:
            ours = np.concatenate(list(threads.map(embedder.embed, halves)))
        assert np.einsum("ij,ij->i", ours, theirs).min() >= least


def test_a_spoilt_folder_is_one_clear_error(tiny: Path) -> None:
    """Weights that are none, a length that is none: one line that names the folder."""
    weights = (tiny / "model.safetensors").read_bytes()
    (tiny / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"tiny-model: cannot be loaded: .*header") as caught:
        load(str(tiny))
    assert "\n" not in str(caught.value)

    (tiny / "model.safetensors").write_bytes(weights)
    edit(tiny / "sentence_bert_config.json", max_seq_length=10_000_000)
    with pytest.raises(ModelError, match=r"tiny-model: .*does not say how many tokens it reads"):
        load(str(tiny))


def test_code_in_a_models_folder_never_runs(tiny: Path) -> None:
    """A folder that brings its own architecture is refused, and its Python file is not imported."""
    (tiny / "own.py").write_text(f"open({str(tiny / 'ran')!r}, 'w').close()")
    edit(tiny / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})

    with pytest.raises(ModelError, match=r"tiny-model: cannot be loaded"):
        load(str(tiny))
    assert not (tiny / "ran").exists()


def test_a_model_without_a_fast_tokenizer_is_refused(default_folder: Path) -> None:
    """A tokenizer in Python would hold the lock while the loop waits: the model is refused by name."""
    model = library(default_folder)
    model[0].processor = SimpleNamespace(model_max_length=256)

    with pytest.raises(ModelError, match="no fast tokenizer"):
        TorchEmbedder(model, name="slow", revision="1", digest="00")


def test_an_input_we_do_not_know_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is fed more than ids and masks is refused, not run without the rest."""
    original = SentenceTransformer.preprocess
    monkeypatch.setattr(
        SentenceTransformer,
        "preprocess",
        lambda self, inputs, **kwargs: original(self, inputs, **kwargs) | {"pixel_values": None},
    )

    with pytest.raises(ModelError, match=r"it also reads \['pixel_values'\]"):
        load(str(tiny))


def test_a_model_that_splits_text_in_its_own_way_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose library prepares texts differently (a chat template, say) is refused, not embedded wrongly."""
    original = SentenceTransformer.preprocess
    monkeypatch.setattr(
        SentenceTransformer,
        "preprocess",
        lambda self, inputs, **kwargs: original(self, [f"user: {text}" for text in inputs], **kwargs),
    )

    with pytest.raises(ModelError, match="in its own way"):
        load(str(tiny))
