"""Bytes of files: what batches read and write, in the same object store as artifacts, below `files/` and `batches/`."""

import io
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from typing import IO, Any, Literal

import obstore
from obstore.store import LocalStore, MemoryStore, ObjectStore

from schemas.errors import StreamsError
from streams.models.objects import default_place, explained, open_store

#: Bytes of one request to the store.
AT_ONCE = 1024 * 1024


class NoFile(StreamsError):
    """The store has no file of this name."""


class CannotSign(StreamsError):
    """This store cannot hand out URLs of its own: a folder has none. Send and fetch files through the bridge."""


class FileStore:
    """Files by name. Connects when it is first used; every call may block."""

    def __init__(self, place: str | None) -> None:
        """`place` is STREAMS_ARTIFACTS."""
        self._given = place
        self.place = place or default_place()

    @cached_property
    def _store(self) -> ObjectStore:
        return open_store(self._given)

    def put(self, name: str, chunks: Iterable[bytes]) -> None:
        """Writes a file, whole or not at all, in parts of some MB. Raises StoreUnavailable."""
        with explained(self.place):
            # Not `obstore.put`: there an iterator must not read from the store itself, as that of the results does.
            writer = obstore.open_writer(self._store, name)
            for chunk in chunks:
                writer.write(chunk)
            writer.close()  # only now the file is there

    def open(self, name: str) -> IO[bytes]:
        """Opens a file for reading, at any place of it. Raises NoFile, StoreUnavailable."""
        try:
            with explained(self.place):
                return io.BufferedReader(_Raw(obstore.open_reader(self._store, name)), AT_ONCE)
        except FileNotFoundError:
            raise NoFile(f"{self.place}: no {name} in it") from None

    def size(self, name: str) -> int:
        """Bytes of a file. Raises NoFile, StoreUnavailable."""
        try:
            with explained(self.place):
                return int(obstore.head(self._store, name)["size"])
        except FileNotFoundError:
            raise NoFile(f"{self.place}: no {name} in it") from None

    def names(self, prefix: str) -> list[str]:
        """Names of the files below a folder, sorted. Raises StoreUnavailable."""
        with explained(self.place):
            return sorted(item["path"] for chunk in obstore.list(self._store, prefix=prefix) for item in chunk)

    def delete(self, *names: str) -> None:
        """Removes files; one that is not there is no error. Raises StoreUnavailable."""
        with explained(self.place):
            for name in names:
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue

    def sign(self, method: Literal["GET", "PUT"], name: str, seconds: int) -> str:
        """Returns a URL with which anybody may do this, for so long. Raises CannotSign, StoreUnavailable."""
        store: Any = self._store
        if isinstance(store, LocalStore | MemoryStore):
            raise CannotSign(CannotSign.__doc__)
        with explained(self.place):
            return str(obstore.sign(store, method, name, timedelta(seconds=seconds)))


class _Raw(io.RawIOBase):
    """The library's reader as Python's own files are: closed by `with`, and with bytes in it."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = bytes(self._reader.read(len(buffer)))
        buffer[: len(found)] = found
        return len(found)
