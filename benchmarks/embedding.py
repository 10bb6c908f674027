"""How fast a backlog becomes vectors: the stream beside the bare library and beside others, turn about."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks import beside
from benchmarks.figures import Figure
from benchmarks.sentences import sentences
from benchmarks.stream import Stream

#: Floating-point operations of the model's linear layers for one token (all-MiniLM-L6-v2).
FLOP_PER_TOKEN = 21.3e6

console = Console(stderr=True, highlight=False)


class Library:
    """The bare library in this process: what everything is compared with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.many(sentences(64))

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.folder), device="cpu")

    def many(self, texts: Sequence[str]) -> float:
        """Seconds of `encode(texts, batch_size=32)` with the whole list."""
        started = time.perf_counter()
        self._model.encode(list(texts), batch_size=32)
        return time.perf_counter() - started

    def one(self, text: str) -> float:
        """Seconds of `encode(text)`."""
        started = time.perf_counter()
        self._model.encode(text)
        return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Rates:
    """Sentences a second, round by round, of one backlog."""

    name: str
    values: list[float]

    def over(self, other: "Rates", name: str, goal: str) -> Figure:
        """The figure of how many times as fast this is, each round against the other's of the same round."""
        pairs = zip(self.values, other.values, strict=True)
        return Figure(name, "x", [mine / theirs for mine, theirs in pairs], goal)


class Backlog:
    """The same sentences through everything that is compared, in turn."""

    def __init__(self, texts: Sequence[str], rounds: int) -> None:
        self.texts, self.rounds = texts, rounds
        self.rates: dict[str, Rates] = {}

    def note(self, name: str, seconds: float) -> None:
        """Notes one turn."""
        rate = len(self.texts) / seconds
        self.rates.setdefault(name, Rates(name, [])).values.append(rate)
        console.print(f"  {name}: {rate:.0f}/s")

    def peers(self, servers: str, model: Path, folder: Path) -> None:
        """Gives every peer its turn; one that does not run here is told, and left out."""
        for peer in beside.STREAMS:
            try:
                self.note(peer.name, beside.backlog(peer, servers, self.texts, model, folder))
            except beside.PeerFailed as error:
                console.print(f"[red]  {peer.name}: {error}")

    def best_peer(self) -> Rates | None:
        """The fastest of the peers that ran in every round."""
        ran = [self.rates[peer.name] for peer in beside.STREAMS if peer.name in self.rates]
        whole = [rates for rates in ran if len(rates.values) == self.rounds]
        return max(whole, key=lambda rates: statistics.median(rates.values), default=None)


def shares(stream: Stream, texts: Sequence[str], rounds: int) -> list[Figure]:
    """What of the processors' multiplying is used while the model runs (for texts, not padding), and the padding."""
    matrix, padding = [], []
    for turn in range(rounds):
        limit = _matrix_limit()
        before = stream.model_work()
        stream.backlog(texts, f"share-{turn}")
        text, padded, seconds = (after - earlier for after, earlier in zip(stream.model_work(), before, strict=True))
        matrix.append(text * FLOP_PER_TOKEN / seconds / limit)
        padding.append(padded / (text + padded) * 100)
    return [
        Figure("share of the matrix limit while embedding", "", matrix, ">= 0.75"),
        Figure("padding on a backlog, of all tokens", "%", padding, "< 5"),
    ]


def _matrix_limit() -> float:
    """Float32 operations a second of one processor: the best of a few large products of numpy on one thread."""
    side = 1024
    left, right = np.ones((side, side), np.float32), np.ones((side, side), np.float32)
    best = 0.0
    with threadpool_limits(1):
        for _ in range(8):
            started = time.thread_time()
            left @ right
            best = max(best, 2 * side**3 / (time.thread_time() - started))
    return best
