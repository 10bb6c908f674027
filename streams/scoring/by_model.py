"""The settings' scorers for each embedder that is served: the examples are embedded by the very model they judge."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from schemas.errors import ModelLoading
from schemas.records import ModelKind, Target
from streams.models.routing import Routing
from streams.scoring.scorer import Scorer

log = structlog.get_logger(__name__)

#: Seconds before an embedder that could not be loaded is tried again.
AGAIN: Final = 10.0

#: An embedder's weights' digest, and the scorers that understand its vectors.
Made = tuple[str, Mapping[str, Scorer]]


class ScorersByModel:
    """Scorers by the digest of an embedder's weights; made in the background, so that a switch holds up nobody else."""

    def __init__(self, own: Made, make: Callable[[Target], Made]) -> None:
        """`own` are those of the settings' model; `make` loads another one, and may raise anything."""
        self._made: dict[str, Mapping[str, Scorer]] = dict([own])
        self._own, self._make = own[1], make
        self._done: set[Target] = set()
        self._wanted: frozenset[Target] = frozenset()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="scorers", daemon=True).start()

    def follow(self, routing: Routing) -> None:
        """Makes scorers for every embedder that commands name; returns at once."""
        with self._changed:
            self._wanted = routing.targets(ModelKind.EMBEDDER)
            self._changed.notify()

    def of(self, digest: str) -> Mapping[str, Scorer]:
        """The scorers of a model; those of the settings' for a model that nobody names. Raises ModelLoading."""
        found = self._made.get(digest)
        if found is not None:
            return found
        if self._wanted - self._done:
            raise ModelLoading("scorers of another model are being made")
        return self._own

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (missing := self._wanted - self._done):
                    self._changed.wait()
            for target in missing:
                self._try(target)

    def _try(self, target: Target) -> None:
        try:
            digest, scorers = self._make(target)
        except Exception as error:  # whatever a model library raises: the other models' vectors are scored on
            log.error("scorers-not-made", model=target.name, error=str(error) or repr(error), again=AGAIN)
            time.sleep(AGAIN)
            return
        log.info("scorers", model=target.name, digest=digest)
        with self._changed:
            self._made[digest] = scorers
            self._done.add(target)
