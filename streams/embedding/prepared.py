"""Models prepared for onnxruntime: a folder each, with the graph, the tokenizer, and a manifest of what they are.

A folder is whole or not there: it is written beside its place and then renamed. Every file's digest is in the
manifest, and is checked before the file is used.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streams.embedding import weights
from streams.embedding.embedder import Identity, ModelError
from streams.embedding.quality import Quality
from streams.embedding.tokeniser import Padding
from streams.embedding.tuning import Budget

#: How graphs are made. A change of it makes those of before unknown; they are prepared again.
VERSION = 1
GRAPH, TOKENIZER, MANIFEST = "model.onnx", "tokenizer.json", "manifest.json"


class NotPrepared(ModelError):
    """There is no prepared model of that name, revision and precision."""


class Damaged(ModelError):
    """A prepared model is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a prepared model is and where it comes from; with it a worker needs nothing of the source any more."""

    identity: Identity
    #: The branch or tag that was asked for, where that is not the commit.
    asked: str | None
    #: sha256 over all files of the source model, its configuration included.
    source: str
    padding: Padding
    #: Against the source's own vectors in float32, on sentences that played no part in preparing it.
    quality: Quality
    #: Its vectors of the golden sentences, as `golden.packed` writes them.
    golden: list[str]
    budget: Budget | None
    #: Versions of what made it.
    tools: dict[str, str]
    #: When it was made, ISO 8601.
    made: str
    #: File -> sha256, of every file beside the manifest.
    files: dict[str, str]


_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared model on this machine."""

    folder: Path
    manifest: Manifest

    def verified(self) -> "Prepared":
        """Itself, after checking every file's digest. Raises Damaged."""
        for name, expected in self.manifest.files.items():
            file = self.folder / name
            found = weights.sha256(file) if file.is_file() else "no such file"
            if found != expected:
                raise Damaged(f"{file}: sha256 {found}, expected {expected}; remove {self.folder} and prepare it again")
        return self

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


def default_folder() -> Path:
    """Where prepared models are when no setting says otherwise: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "sentence-streams" / "models"


def listing(models: Path) -> list[Prepared]:
    """Every prepared model under `models` that this version can use, the latest first. Raises Damaged."""
    found = [Prepared(file.parent, _read(file)) for file in models.glob(f"*-v{VERSION}/{MANIFEST}")]
    return sorted(found, key=lambda each: each.manifest.made, reverse=True)


def by_name(models: Path, name: str, revision: str | None, precision: str) -> Prepared | None:
    """The prepared model of a name, at a commit, branch or tag; without one, what was prepared last."""
    for each in listing(models):
        identity = each.manifest.identity
        if (identity.name, identity.precision) == (name, precision) and revision in {
            None,
            identity.revision,
            each.manifest.asked,
        }:
            return each
    return None


def by_source(models: Path, source: str, precision: str) -> Prepared | None:
    """What was prepared from exactly these files, named by their `weights.fingerprint`."""
    file = place(models, source, precision) / MANIFEST
    return Prepared(file.parent, _read(file)) if file.is_file() else None


def place(models: Path, source: str, precision: str) -> Path:
    """The folder of a model prepared from `source`."""
    return models / f"{source[:16]}-{precision}-v{VERSION}"


@contextmanager
def workplace(models: Path) -> Iterator[Path]:
    """An empty folder beside the prepared models, on the same file system; what is left in it is removed."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".preparing-", dir=models))
    except OSError as error:
        raise ModelError(f"{models}: prepared models cannot be kept there: {error.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(models: Path, folder: Path, manifest: Manifest) -> Prepared:
    """Puts a folder with a finished model in its place, whole; what was there before is replaced."""
    _write(folder / MANIFEST, manifest)
    folder.chmod(0o755)  # a temporary folder is its owner's alone; this one may belong to an image
    target = place(models, manifest.source, manifest.identity.precision)
    with workplace(models) as aside:
        _swap(folder, target, aside)
    return Prepared(target, manifest)


def _swap(folder: Path, target: Path, aside: Path) -> None:
    """Puts `folder` where `target` is, which goes aside; somebody else may be doing the same."""
    for attempt in count():
        with suppress(FileNotFoundError):
            target.rename(aside / str(attempt))
        try:
            folder.rename(target)
            return
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise


def amended(prepared: Prepared, **changes: Any) -> Prepared:
    """The prepared model with a changed manifest; its files stay as they are."""
    manifest = replace(prepared.manifest, **changes)
    with workplace(prepared.folder.parent) as aside:
        _write(aside / MANIFEST, manifest)
        (aside / MANIFEST).replace(prepared.folder / MANIFEST)
    return Prepared(prepared.folder, manifest)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of each file in a folder."""
    return {file.name: weights.sha256(file) for file in sorted(folder.iterdir())}


def _write(file: Path, manifest: Manifest) -> None:
    with file.open("wb") as stream:
        stream.write(_MANIFEST.dump_json(manifest, indent=2))
        stream.flush()
        os.fsync(stream.fileno())


def _read(file: Path) -> Manifest:
    try:
        return _MANIFEST.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise Damaged(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
