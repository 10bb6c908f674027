"""What a model's folder may hold: weights as safetensors, code of our libraries only; and their digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

from streams.embedding.embedder import ModelError

#: Configuration, vocabularies and safetensors; pickles and code are never even downloaded.
WANTED = ("*.json", "*.txt", "*.model", "*.safetensors")
#: Folders in which a repository may keep the same model for other libraries.
EXPORTS = ("onnx/", "openvino/")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class UnsafeModel(ModelError):
    """Loading this model would run code that came with it (a pickle, or modules of its own)."""


def digest(folder: Path) -> str:
    """sha256 (hex) of the weights: of the one file, or of the list of files with their digests.

    Raises UnsafeModel, or ModelError when the folder is not a whole sentence-transformers model.
    """
    files = weight_files(folder)
    if len(files) == 1:
        return sha256(files[0])
    listing = "".join(f"{file.relative_to(folder).as_posix()} {sha256(file)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def fingerprint(folder: Path) -> str:
    """sha256 (hex) over everything that decides what the model gives: weights, configuration, vocabulary."""
    files = {file for pattern in WANTED for file in folder.rglob(pattern)}
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    listing = "".join(f"{name} {sha256(folder / name)}\n" for name in names if not name.startswith(EXPORTS))
    return hashlib.sha256(listing.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Every safetensors file that the model's modules load, in the modules' order."""
    modules = _read(folder / "modules.json")
    files = [file for module in modules for file in _module_files(folder, module)]
    if not files:
        raise ModelError(f"{folder}: no model.safetensors in it")
    return files


def _module_files(folder: Path, module: dict[str, Any]) -> list[Path]:
    if not module["type"].startswith("sentence_transformers."):
        raise UnsafeModel(f"{folder}: its module {module['type']} is code of its own, which is never run")
    place = folder / module["path"]
    if not place.resolve().is_relative_to(folder.resolve()):
        raise UnsafeModel(f"{folder}: its module path {module['path']} leaves the folder")
    if (place / "adapter_config.json").is_file():
        raise ModelError(f"{place}: an adapter has no weights of its own; merge it into its base model first")
    return safetensors(place)


def safetensors(place: Path) -> list[Path]:
    """The safetensors files of one model; none where it has no weights. Raises UnsafeModel where it has a pickle."""
    return _shards(place) or _single(place)


def _shards(place: Path) -> list[Path]:
    index = place / "model.safetensors.index.json"
    if not index.is_file():
        return []
    names = sorted(set(_read(index)["weight_map"].values()))
    files = [place / Path(name).name for name in names]
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file}: missing, though {index.name} names it")
    return files


def _single(place: Path) -> list[Path]:
    file = place / "model.safetensors"
    if file.is_file():
        return [file]
    pickle = next((found for pattern in _PICKLES for found in place.glob(pattern)), None)
    if pickle is not None:
        raise UnsafeModel(f"{pickle}: a pickle can run code; convert it to model.safetensors first")
    return []


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{file.parent}: not a sentence-transformers model: no {file.name} in it") from None
    except ValueError as error:
        raise ModelError(f"{file}: not JSON: {error}") from None


def sha256(file: Path) -> str:
    """sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
