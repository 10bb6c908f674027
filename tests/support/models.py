"""The default model prepared for onnxruntime: made once for each state of the code that makes it, and kept."""

import hashlib
from pathlib import Path

import pytest

from streams.embedding import loader
from streams.embedding.prepare import Sentences, Workshop
from streams.embedding.prepared import Prepared

ROOT = Path(__file__).parents[2]
#: What decides how a prepared model comes out.
_MAKERS = ("export.py", "onnx_backend.py", "prepare.py", "prepared.py", "quality.py", "quantise.py", "torch_backend.py")


def sentences() -> Sentences:
    """The sample's sentences, divided as `models prepare` does it."""
    return Sentences.split((ROOT / "agents" / "samples" / "sentences.txt").read_text(encoding="utf-8").splitlines())


def kept(config: pytest.Config) -> Path:
    """A folder of prepared models that outlives the session; another one after a change of what prepares them."""
    digest = hashlib.sha256()
    for name in _MAKERS:
        digest.update((ROOT / "streams" / "embedding" / name).read_bytes())
    assert config.cache is not None
    return Path(config.cache.mkdir(f"models-{digest.hexdigest()[:16]}"))


def prepared_default(models: Path, precision: str) -> Prepared:
    """The default model, prepared where it was not; skips the test where its source is not here."""
    pytest.importorskip("onnxscript", reason="the extra onnx-export is not installed")
    try:
        return Workshop(models, sentences()).prepare(loader.DEFAULT_MODEL, None, precision)
    except loader.ModelNotFound as error:
        pytest.skip(f"the default model is not here: {error}")
