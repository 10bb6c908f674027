"""The best token budget for a machine: measured when a model is prepared there, and remembered with it."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from streams.embedding.embedder import Embedder, Tokens

#: Best on every processor it was measured on (docs/decisions/0004-onnx.md); half and twice of it are within noise.
USUAL = 256
_BUDGETS = (128, USUAL, 512, 1024)
_ROUNDS = 3
#: How much faster than the usual budget another must be, so that noise does not choose.
_CLEARLY = 1.05


@dataclass(frozen=True, slots=True)
class Budget:
    """What was measured, and on which processor."""

    processor: str
    #: The budget to use there, in tokens a batch, padding included.
    tokens: int
    #: Budget -> tokens that a second of one processor embeds.
    rates: dict[int, int]
    #: The backend that was clearly faster with it than onnxruntime; onnx where none was.
    backend: str = "onnx"


def backend(found: Budget | None) -> str:
    """The fastest backend here: the measured one, where it was measured on this kind of processor."""
    return found.backend if found is not None and found.processor == processor() else "onnx"


def budget(found: Budget | None) -> int:
    """The token budget to use here: the measured one, where it was measured on this kind of processor."""
    return found.tokens if found is not None and found.processor == processor() else USUAL


def measured(embedder: Embedder, texts: Sequence[str]) -> Budget:
    """Measures this machine in a second or two; `texts` are sentences as they will come.

    As many threads as usual work at once, since they share caches. What counts is the processor's time and not the
    clock's, and the budgets take turns: whatever else the machine does meanwhile, it disturbs the outcome little.
    """
    tokens = sorted(embedder.tokenise(texts), key=len, reverse=True)
    total = sum(map(len, tokens))
    seconds: dict[int, list[float]] = {budget: [] for budget in _BUDGETS}

    def cost(batch: list[Tokens]) -> float:
        started = time.thread_time()
        embedder.embed(batch)
        return time.thread_time() - started

    with ThreadPoolExecutor(embedder.concurrency) as threads:
        for _ in range(_ROUNDS):
            for budget, taken in seconds.items():
                taken.append(sum(threads.map(cost, batches(tokens, budget))))
    rates = {budget: round(total / statistics.median(taken)) for budget, taken in seconds.items()}
    return Budget(processor(), _chosen(rates), rates)


def fastest(embedders: Mapping[str, Embedder], texts: Sequence[str], usual: str) -> str:
    """The name of the embedder that is clearly faster than the `usual` one, or that one.

    By the clock, since a library may compute on threads of its own: the best of a few rounds, taken in turn.
    """
    best = dict.fromkeys(embedders, float("inf"))
    for _ in range(_ROUNDS + 1):  # the first warms up
        for name, embedder in embedders.items():
            best[name] = min(best[name], _seconds(embedder, texts))
    first = min(best, key=best.__getitem__)
    return first if best[usual] > _CLEARLY * best[first] else usual


def _seconds(embedder: Embedder, texts: Sequence[str]) -> float:
    tokens = sorted(embedder.tokenise(texts), key=len, reverse=True)
    queue = list(batches(tokens, embedder.token_budget))
    with ThreadPoolExecutor(embedder.concurrency) as threads:
        started = time.perf_counter()
        list(threads.map(embedder.embed, queue))
        return time.perf_counter() - started


def _chosen(rates: dict[int, int]) -> int:
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > _CLEARLY * rates[USUAL] else USUAL


def batches(tokens: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    """Batches of texts that come longest first, each within `budget` tokens, padding included."""
    batch: list[Tokens] = []
    for text in tokens:
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def processor() -> str:
    """The processor's name, as its maker writes it; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
