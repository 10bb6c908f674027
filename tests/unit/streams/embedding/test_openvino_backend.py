"""The openvino backend."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from streams.embedding import loader, prepared, weights
from streams.embedding.embedder import ModelError

pytest.importorskip("openvino", reason="the extra openvino is not installed")

from streams.embedding.onnx_backend import load_onnx
from streams.embedding.openvino_backend import load_openvino

pytestmark = pytest.mark.model

TEXTS = ["Short.", "Where did you leave the key?", "", "The rain came down " * 80]


def test_threads_get_onnxruntimes_vectors(tiny_models: Path) -> None:
    """Threads at once get float32 vectors of their own batches, not bfloat16 and not each other's."""
    [found] = prepared.listing(tiny_models)
    embedder, onnx = load_openvino(found, threads=2), load_onnx(found)
    tokens = onnx.tokenise(TEXTS)
    expected = {text: onnx.embed([one])[0] for text, one in zip(TEXTS, tokens, strict=True)}

    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda one: embedder.embed([one])[0], tokens * 20))

    assert all(np.allclose(row, expected[text], atol=1e-5) for row, text in zip(rows, TEXTS * 20, strict=True))


def test_a_graph_that_is_none_is_one_clear_error(models: Path) -> None:
    """What openvino cannot read names the folder, in one line."""
    [found] = prepared.listing(models)
    (found.folder / prepared.GRAPH).write_bytes(b"not a graph")
    files = {name: weights.sha256(found.folder / name) for name in found.manifest.files}

    with pytest.raises(ModelError, match="cannot be loaded by openvino") as caught:
        load_openvino(prepared.amended(found, files=files))
    assert "\n" not in str(caught.value)


def test_it_is_loaded_by_name(tiny: Path, models: Path) -> None:
    """The loader knows the backend and checks what it loads."""
    assert loader.load(str(tiny), backend="openvino", models=models).identity.precision == "float32"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without openvino is told what to install."""
    monkeypatch.setattr(loader.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ModelError, match=r"install the extra sentence-streams\[openvino\]"):
        loader.load("any/model", backend="openvino", models=tmp_path)
