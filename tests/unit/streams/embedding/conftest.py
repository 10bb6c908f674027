"""The default model, loaded once; and a tiny model of random weights, made on the spot."""

import json
import shutil
from pathlib import Path

import pytest

from streams.embedding.embedder import Embedder
from streams.embedding.loader import DEFAULT_MODEL, ModelNotFound, find, load
from streams.embedding.prepare import Workshop
from tests.support.models import sentences

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """Where the default model is on this machine."""
    try:
        return find(DEFAULT_MODEL).folder
    except ModelNotFound as error:
        pytest.skip(f"the default model is not here: {error}")


@pytest.fixture(scope="session")
def embedder(default_folder: Path) -> Embedder:
    """The default model on torch."""
    return load(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def tiny_source(default_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-layer model of 16 dimensions, without a normalising module, with a default prompt."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=30522
    )
    BertModel(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(default_folder / name, folder)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    files = {
        "modules.json": [
            {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for name, path, kind in modules
        ],
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "", "passage": "passage: "},
            "default_prompt_name": "passage",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
    }
    (folder / "1_Pooling").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def tiny_models(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model, prepared in float32."""
    pytest.importorskip("onnxscript", reason="the extra onnx-export is not installed")
    models = tmp_path_factory.mktemp("models")
    Workshop(models, sentences()).prepare(str(tiny_source), None, "float32")
    return models


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be spoilt by a test."""
    return Path(shutil.copytree(tiny_models, tmp_path / "models"))


@pytest.fixture
def tiny(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be spoilt by a test."""
    return Path(shutil.copytree(tiny_source, tmp_path / "tiny-model"))
