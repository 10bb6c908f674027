"""A model that is watched before it answers: it embeds what others embed, and nobody gets its vectors.

Vectors of two models cannot be compared, so what is measured is whether it keeps up and whether its vectors are
finite. It works on a thread of its own and takes what it can: live traffic never waits for it.
"""

import queue
import threading
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import structlog

from streams.embedding.model import Model
from streams.observe.metrics import Metrics

log = structlog.get_logger(__name__)

#: Batches that may wait; more are skipped, and counted.
WAITING: Final = 4


class Shadow:
    """Embeds what it is given, in the background."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._batches: queue.Queue[tuple[Model, Sequence[str]]] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def give(self, model: Model, texts: Sequence[str]) -> None:
        """Has a model embed texts, unless it is too far behind; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
            self._thread.start()
        try:
            self._batches.put_nowait((model, texts))
        except queue.Full:
            self._metrics.shadow_records.labels(model.identity.name, "skipped").inc(len(texts))

    def wait(self) -> None:
        """Returns once all that was given is done."""
        self._batches.join()

    def _work(self) -> None:
        while True:
            self._embed(*self._batches.get())
            self._batches.task_done()

    def _embed(self, model: Model, texts: Sequence[str]) -> None:
        name, counted, started = model.identity.name, self._metrics.shadow_records, time.monotonic()
        try:
            vectors = model.embedder.embed(model.embedder.tokenise(texts))
        except Exception as error:  # whatever a model raises: that it fails is what one wants to know of a shadow
            log.warning("shadow-failed", model=name, error=repr(error))
            counted.labels(name, "failed").inc(len(texts))
            return
        self._metrics.shadow_seconds.labels(name).observe(time.monotonic() - started)
        good = int(np.isfinite(vectors).all(axis=1).sum())
        counted.labels(name, "good").inc(good)
        counted.labels(name, "broken").inc(len(texts) - good)
