"""`python -m benchmarks.training`: how long 10,000 labelled sentences take with cached vectors, and what a head costs.

Needs no broker. The head's cost is set beside that of embedding the same sentences, by `STREAMS_MODEL`.
"""

import tempfile
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.figures import Figure, show
from benchmarks.sentences import sentences
from streams.embedding.embedder import Tokens, Vectors
from streams.embedding.loader import configured
from streams.models.artifacts import ArtifactStore
from streams.models.datasets import Dataset
from streams.models.objects import open_store
from streams.models.runs import Outcome, StoreNotes, Watch, carried_out
from streams.models.training import Recipe
from streams.models.vectors import NoNotes, Vectoriser
from streams.scoring.head import HeadScorer
from streams.settings import load
from streams.testing import DeterministicEmbedder

ROWS, LABELS, ROUNDS = 10_000, 4, 3
#: Sentences whose embedding is timed, and vectors in a batch of the scorer, as in `agents.score`.
EMBEDDED, BATCH = 512, 256
#: How far a label pulls its sentences: heads are right about nine times in ten.
PULL = 0.15


class Labelled(DeterministicEmbedder):
    """Vectors that a label pulls its way: a sentence's label follows from its length in tokens."""

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Unit vectors, shape (len(batch), 384)."""
        toward = np.random.default_rng(0).standard_normal((LABELS, self.identity.dimensions))
        pulled = (
            super().embed(batch) * np.sqrt(self.identity.dimensions) + PULL * toward[[len(t) % LABELS for t in batch]]
        )
        return np.asarray(pulled / np.linalg.norm(pulled, axis=1, keepdims=True), dtype=np.float32)


def dataset(texts: Sequence[str]) -> Dataset:
    """The texts with the labels that `Labelled` shows."""
    tokens = Labelled().tokenise(texts)
    rows = sorted((text, f"label {len(read) % LABELS}") for text, read in zip(texts, tokens, strict=True))
    return Dataset(tuple(text for text, _ in rows), tuple(label for _, label in rows))


def trained(data: Dataset, folder: str, head: str) -> tuple[float, Outcome]:
    """Seconds of a run whose vectors are in the store, and what it made."""
    vectoriser = Vectoriser(Labelled(), None, StoreNotes(open_store(folder), folder))
    vectoriser(data.texts)
    started = time.perf_counter()
    made = carried_out(data, Recipe(head), vectoriser, ArtifactStore.at(folder), None, Watch())  # type: ignore[arg-type]
    return time.perf_counter() - started, made


def head_cost(scorer: HeadScorer, vectors: Vectors) -> float:
    """Microseconds of CPU a vector, in batches."""
    started = time.process_time()
    for at in range(0, len(vectors), BATCH):
        scorer.score(vectors[at : at + BATCH])
    return (time.process_time() - started) / len(vectors) * 1e6


def embed_cost() -> float:
    """Microseconds of CPU a sentence: tokens and vectors, as a trainer's run has them."""

    vectoriser, texts = Vectoriser(configured(load()), None, NoNotes()), sentences(EMBEDDED)
    vectoriser(texts[:32])
    started = time.process_time()
    vectoriser(texts)
    return (time.process_time() - started) / EMBEDDED * 1e6


def main() -> None:
    """Measures, prints, writes."""
    figures, data = [], dataset(sentences(ROWS))
    with tempfile.TemporaryDirectory() as folder:
        for head in ("logistic", "ridge"):
            runs = [trained(data, folder, head) for _ in range(ROUNDS)]
            title = f"training on {ROWS:,} sentences with cached vectors, {head}"
            figures.append(Figure(title, "s", [seconds for seconds, _ in runs], "< 10"))
        made = runs[-1][1]
        scorer = HeadScorer.stored("bench", ArtifactStore.at(folder), made.digest)
        vectors = Labelled().embed(Labelled().tokenise(data.texts))
        scorer.score(vectors[:BATCH])
        heads, embed = [head_cost(scorer, vectors) for _ in range(ROUNDS)], embed_cost()
    figures.append(Figure("CPU a record, a trained head", "us", heads, ""))
    figures.append(Figure("CPU a record, its embedding", "us", [embed], ""))
    figures.append(Figure("a trained head : the embedding", "%", [100 * each / embed for each in heads], "< 5"))
    show(figures)


if __name__ == "__main__":
    main()
