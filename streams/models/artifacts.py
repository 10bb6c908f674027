"""Artifacts: sets of named files under the digest of what they hold, so nobody can change one unseen.

Layout: `artifacts/DIGEST/NAME`, and `data/DIGEST` for what a model was trained on.
"""

import hashlib
import re
from collections.abc import Mapping

import obstore
from obstore.store import ObjectStore

from schemas.errors import StreamsError
from streams.models.objects import default_place, explained, open_store

#: Formats that hold values and never run: no pickle, whatever it is called.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}\.(safetensors|json)")
DIGEST = re.compile(r"[0-9a-f]{64}")


class ArtifactMissing(StreamsError):
    """The store has no artifact of this digest."""


class ArtifactDamaged(StreamsError):
    """An artifact is not what was stored: a file is changed, missing or strange."""


class UnsafeArtifact(StreamsError):
    """An artifact may hold safetensors and JSON only: other formats can run code when they are read."""


class ArtifactStore:
    """Artifacts in one object store. Every call is a round trip or several: keep it off the event loop."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        """`place` is the store's name in messages."""
        self._store = store
        self.place = place

    @classmethod
    def at(cls, place: str | None) -> "ArtifactStore":
        """The store at STREAMS_ARTIFACTS: a folder, s3://, gs:// or az://. Raises BadPlace, StoreUnavailable."""
        return cls(open_store(place), place or default_place())

    def put(self, files: Mapping[str, bytes]) -> str:
        """Stores named files and returns their digest; the same files again change nothing.

        Raises UnsafeArtifact for another name than NAME allows, StoreUnavailable.
        """
        if not files:
            raise UnsafeArtifact("an artifact without files says nothing")
        for name in files:
            _check(name)
        found = digest(files)
        with explained(self.place):
            for name, content in files.items():
                obstore.put(self._store, f"artifacts/{found}/{name}", content)
        return found

    def get(self, found: str) -> dict[str, bytes]:
        """Returns the files of an artifact, checked against its digest.

        Raises ArtifactMissing, ArtifactDamaged, UnsafeArtifact, StoreUnavailable.
        """
        _check_digest(found)
        folder = f"artifacts/{found}/"
        with explained(self.place):
            paths = [item["path"] for chunk in obstore.list(self._store, prefix=folder) for item in chunk]
            names = [path.removeprefix(folder) for path in paths]
            for name in names:
                _check(name)
            files = {name: bytes(obstore.get(self._store, folder + name).bytes()) for name in sorted(names)}
        if not files:
            raise ArtifactMissing(f"{self.place}: no artifact {found[:12]} in it")
        if digest(files) != found:
            raise ArtifactDamaged(f"{self.place}: artifact {found[:12]} is not what was stored; put it there again")
        return files

    def keep(self, content: bytes) -> str:
        """Stores what a model was trained on and returns its address, `data/SHA256`. Raises StoreUnavailable."""
        address = f"data/{hashlib.sha256(content).hexdigest()}"
        with explained(self.place):
            obstore.put(self._store, address, content)
        return address

    def kept(self, address: str) -> bytes:
        """Returns what `keep` stored at this address. Raises ArtifactMissing, ArtifactDamaged, StoreUnavailable."""
        found = address.removeprefix("data/")
        _check_digest(found)
        try:
            with explained(self.place):
                content = bytes(obstore.get(self._store, f"data/{found}").bytes())
        except FileNotFoundError:
            raise ArtifactMissing(f"{self.place}: no {address} in it") from None
        if hashlib.sha256(content).hexdigest() != found:
            raise ArtifactDamaged(f"{self.place}: {address} is not what was stored")
        return content


def digest(files: Mapping[str, bytes]) -> str:
    """sha256 (hex) over the sorted list of names, each with its file's sha256."""
    listing = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256(listing.encode()).hexdigest()


def _check(name: str) -> None:
    if not NAME.fullmatch(name):
        raise UnsafeArtifact(f"{name!r} in an artifact: expected a plain name that ends in .safetensors or .json")


def _check_digest(found: str) -> None:
    if not DIGEST.fullmatch(found):
        raise ArtifactMissing(f"{found!r} is not a digest: expected 64 hexadecimal digits")
