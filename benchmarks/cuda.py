"""The GPU path: float16, larger budgets, pinned memory, and two callers whose copies and sums overlap."""

import importlib.util
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.figures import Figure
from streams.embedding.loader import DEFAULT_DIGEST, DEFAULT_MODEL, DEFAULT_REVISION
from streams.embedding.tuning import batches


def available() -> bool:
    """Whether torch finds a CUDA device."""
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def half(folder: Path, texts: Sequence[str], rounds: int) -> list[Figure]:
    """float16 against `encode` on the same device, and what the second caller adds."""
    from sentence_transformers import SentenceTransformer

    from streams.embedding.torch_backend import load_torch

    library = SentenceTransformer(str(folder), device="cuda")
    embedder = load_torch(
        folder, name=DEFAULT_MODEL, revision=DEFAULT_REVISION, digest=DEFAULT_DIGEST, precision="float16"
    )
    tokens = sorted(embedder.tokenise(texts), key=len, reverse=True)
    queue = list(batches(tokens, embedder.token_budget))

    def seconds(callers: int) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(embedder.embed, queue))
        return time.perf_counter() - started

    against, overlap = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        library.encode(list(texts), batch_size=32)
        encode = time.perf_counter() - started
        alone, together = seconds(1), seconds(embedder.concurrency)
        against.append(encode / together)
        overlap.append(alone / together)
    return [
        Figure("CUDA, float16 : encode(batch_size=32) on the same device", "x", against, ""),
        Figure("CUDA, two callers : one", "x", overlap, "> 1"),
    ]
