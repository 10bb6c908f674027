"""A small file that somebody may replace while we run: read again when it changed, kept when it went bad."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What `parse` makes of a file's bytes; the file is read again only when its time, size or place changed."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        """Reads it; raises OSError, and ValueError from `parse`, so that a wrong file is told at the start."""
        self._path, self._parse = path, parse
        self._seen = self._version()  # before reading: a change while we read is then seen as one
        self._content = parse(path.read_bytes())

    def get(self) -> T:
        """Returns the content; where a new one cannot be read or parsed, the last good one; the log says so."""
        version = self._version()
        if version != self._seen:
            self._seen = version
            try:
                self._content = self._parse(self._path.read_bytes())
                log.info("file-changed", path=str(self._path))
            except (OSError, ValueError) as error:
                log.warning(
                    "file-unusable", path=str(self._path), error=str(error), meaning="the last good one is kept"
                )
        return self._content

    def _version(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
