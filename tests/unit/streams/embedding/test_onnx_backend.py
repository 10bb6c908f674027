"""The onnx backend against sentence-transformers itself, and what it does without."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from streams.embedding import prepared, weights
from streams.embedding.embedder import ModelError
from streams.embedding.loader import DEFAULT_MODEL
from streams.embedding.onnx_backend import OnnxEmbedder, load_onnx
from streams.embedding.prepared import GRAPH, TOKENIZER, Prepared
from tests.support.models import kept, prepared_default

pytestmark = pytest.mark.model

TEXTS = [
    "Short.",
    "Where did you leave the key to the garden door, and who had it before you?",
    "Größe, naïve, ﬁn, 日本語, по-русски 🙂",
    "",
    "The rain came down " * 80,
]


@pytest.fixture(scope="module")
def default(pytestconfig: pytest.Config) -> Prepared:
    """The default model, prepared in float32."""
    return prepared_default(kept(pytestconfig), "float32")


@pytest.fixture
def tiny_embedder(tiny_models: Path) -> OnnxEmbedder:
    [found] = prepared.listing(tiny_models)
    return load_onnx(found)


def test_vectors_equal_the_librarys_own(default: Prepared, default_folder: Path) -> None:
    """The default model's vectors are those of SentenceTransformer.encode, cosine >= 0.99999."""
    embedder = load_onnx(default)
    library = SentenceTransformer(str(default_folder), device="cpu", local_files_only=True)

    ours = embedder.embed(embedder.tokenise(TEXTS))

    assert np.einsum("ij,ij->i", ours, library.encode(TEXTS)).min() >= 0.99999


def test_threads_share_one_session(default: Prepared) -> None:
    """Any number of threads at once get what one gets."""
    embedder = load_onnx(default, threads=3)
    tokens = embedder.tokenise(TEXTS)
    expected = embedder.embed(tokens)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: embedder.embed(tokens), range(20)))

    assert embedder.concurrency == 3
    assert all(np.allclose(rows, expected, atol=1e-6) for rows in found)


def test_serving_imports_no_model_library(default: Prepared) -> None:
    """A worker on onnx loads, checks and embeds without torch, transformers, the hub, or what prepares models."""
    code = f"""
import sys
from pathlib import Path
import agents.embed
from streams.embedding.loader import load
embedder = load({DEFAULT_MODEL!r}, None, "auto", models=Path({str(default.folder.parent)!r}))
assert type(embedder).__name__ == "OnnxEmbedder"
assert embedder.embed(embedder.tokenise(["a sentence"])).shape == (1, 384)
heavy = {{"torch", "transformers", "sentence_transformers", "huggingface_hub", "onnx", "onnxscript", "scipy", "joblib"}}
sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("message", ["Failed to allocate memory for requested buffer of size 9", "std::bad_alloc"])
def test_out_of_memory_is_told_apart(message: str, tiny_embedder: OnnxEmbedder) -> None:
    """Too large a batch is a MemoryError, so that the caller can try a smaller one."""
    fail_with(tiny_embedder, RuntimeError(message))

    with pytest.raises(MemoryError, match="batch of 2 texts"):
        tiny_embedder.embed(tiny_embedder.tokenise(["a", "b"]))


def test_other_failures_stay_what_they_are(tiny_embedder: OnnxEmbedder) -> None:
    """An error that is not about memory is not hidden as one."""
    fail_with(tiny_embedder, RuntimeError("indices element out of data bounds"))

    with pytest.raises(RuntimeError, match="out of data bounds"):
        tiny_embedder.embed(tiny_embedder.tokenise(["a"]))


def fail_with(embedder: OnnxEmbedder, error: Exception) -> None:
    class Session:
        def run(self, *_: Any) -> None:
            raise error

    embedder._session = Session()


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_file_that_is_none_is_one_clear_error(name: str, models: Path) -> None:
    """A graph or tokenizer that the libraries cannot read, though its digest fits, names folder and version."""
    [found] = prepared.listing(models)
    (found.folder / name).write_bytes(b"not what it should be")
    files = {name: weights.sha256(found.folder / name) for name in found.manifest.files}
    spoilt = prepared.amended(found, files=files)

    with pytest.raises(ModelError, match=r"cannot be loaded by onnxruntime [\d.]+: ") as caught:
        load_onnx(spoilt)
    assert "\n" not in str(caught.value)


def test_a_changed_file_is_never_loaded(models: Path) -> None:
    """The digest is checked at every load."""
    [found] = prepared.listing(models)
    with (found.folder / GRAPH).open("ab") as graph:
        graph.write(b"\0")

    with pytest.raises(prepared.Damaged, match=r"model\.onnx: sha256"):
        load_onnx(found)
