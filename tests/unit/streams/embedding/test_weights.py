"""Which folders are trusted, and what their digest covers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from streams.embedding import weights
from streams.embedding.embedder import ModelError
from streams.embedding.weights import UnsafeModel

POOLING = {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}


def folder_with(root: Path, files: dict[str, Any], modules: list[dict[str, str]] | None = None) -> Path:
    default = [{"path": "", "type": "sentence_transformers.models.Transformer"}, POOLING]
    for name, content in {"modules.json": default if modules is None else modules, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return root


def test_one_file_of_weights_is_known_by_its_own_digest(tmp_path: Path) -> None:
    """The digest of a model with one weights file is that file's sha256, as any tool prints it."""
    folder = folder_with(tmp_path, {"model.safetensors": b"weights"})

    assert weights.digest(folder) == hashlib.sha256(b"weights").hexdigest()


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    """A folder that offers both formats is fine: only the safe one is read."""
    folder = folder_with(tmp_path, {"model.safetensors": b"weights", "pytorch_model.bin": b"pickle"})

    assert weights.weight_files(folder) == [folder / "model.safetensors"]


def test_the_digest_covers_every_file_of_weights(tmp_path: Path) -> None:
    """Shards and the weights of later modules all count: changing one byte of one changes the digest."""
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}, POOLING, dense]
    files = {"m-1.safetensors": b"1", "m-2.safetensors": b"2", "2_Dense/model.safetensors": b"3"}
    folder = folder_with(tmp_path, {"model.safetensors.index.json": index, **files}, modules)
    before = weights.digest(folder)

    assert len(weights.weight_files(folder)) == 3
    for name in files:
        (folder / name).write_bytes(b"changed")
        assert weights.digest(folder) != before
        (folder / name).write_bytes(files[name])


@pytest.mark.parametrize(
    ("files", "modules", "message"),
    [
        ({"pytorch_model.bin": b"pickle"}, None, "a pickle can run code"),
        ({"model.safetensors": b"w"}, [{"path": "", "type": "custom_st.Transformer"}], "code of its own"),
        (
            {"model.safetensors": b"w"},
            [{"path": "../elsewhere", "type": "sentence_transformers.models.Dense"}],
            "leaves the folder",
        ),
    ],
    ids=["pickle", "own code", "path outside"],
)
def test_a_folder_that_could_run_code_is_refused(
    tmp_path: Path, files: dict[str, Any], modules: list[dict[str, str]] | None, message: str
) -> None:
    """Pickles, modules of the model's own and paths out of the folder are refused before anything is loaded."""
    with pytest.raises(UnsafeModel, match=message):
        weights.digest(folder_with(tmp_path, files, modules))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no model.safetensors"),
        ({"modules.json": b"{"}, "not JSON"),
        ({"adapter_config.json": b"{}"}, "merge it"),
        ({"model.safetensors.index.json": {"weight_map": {"a": "m-1.safetensors"}}}, "m-1.safetensors: missing"),
    ],
    ids=["no weights", "bad modules.json", "adapter", "missing shard"],
)
def test_an_incomplete_folder_says_what_is_missing(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    """A folder that is not a whole model is one clear error."""
    with pytest.raises(ModelError, match=message):
        weights.digest(folder_with(tmp_path, files))


def test_a_folder_of_something_else_is_not_a_model(tmp_path: Path) -> None:
    """Without modules.json it is no sentence-transformers model, and the error says so."""
    with pytest.raises(ModelError, match=r"not a sentence-transformers model: no modules\.json"):
        weights.digest(tmp_path)
