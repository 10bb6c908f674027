"""`python -m benchmarks.vectors`: what smaller vectors cost in quality, beside the bytes that they save.

Needs no broker. Embeds the sample sentences with `STREAMS_MODEL` and compares the similarity of each pair in smaller
vectors with that in whole ones: Spearman's rank correlation (1: each pair stands where it stood), and how many of each
sentence's ten nearest are still among its ten nearest.
"""

from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.sentences import SAMPLE
from schemas.packing import pack, values
from schemas.records import Embedding, Encoding, Source
from streams.embedding.embedder import Vectors, shorten
from streams.embedding.loader import configured
from streams.models.vectors import NoNotes, Vectoriser
from streams.settings import load

SIZES = (None, 256, 128, 64)
NEAREST = 10
#: Sentences to compare, each with every other.
MOST = 2_000


def embedded(texts: list[str]) -> Vectors:
    """Vectors of unit length, shape (texts, dimensions)."""
    return Vectoriser(configured(load()), None, NoNotes())(texts).vectors


def smaller(vectors: Vectors, encoding: Encoding, dimensions: int) -> tuple[Vectors, int]:
    """What a subscriber reads of each vector, and the bytes of one."""
    rows, size = [], 0
    for vector in shorten(vectors, dimensions):
        whole, packed, scale = pack(vector, encoding)
        made = replace(_RECORD, dimensions=dimensions, encoding=encoding, packed=packed, scale=scale, vector=whole)
        rows.append(values(made))
        size = whole.nbytes + len(packed)
    return np.stack(rows), size


_RECORD = Embedding(
    id="", sentence_id="", model="", revision="", weights_digest="", dimensions=0, token_count=0, truncated=False,
    precision="float32", source=Source("", 0, 0, 0), embedded_at=0, vector=np.empty(0, np.float32),
)  # fmt: skip


def nearest(vectors: Vectors) -> list[set[int]]:
    """Of each vector the rows that are nearest to it."""
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    return [set(row) for row in np.argpartition(-alike, NEAREST, axis=1)[:, :NEAREST].tolist()]


def main() -> None:
    """Measures and prints."""
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    vectors = embedded([line for line in dict.fromkeys(lines) if line.strip()][:MOST])
    pairs = np.triu_indices(len(vectors), 1)
    exact, close = (vectors @ vectors.T)[pairs], nearest(vectors)
    table = Table(title=f"{len(vectors)} sentences, {len(exact):,} pairs, {load().model}")
    for column in ("dimensions", "encoding", "bytes", "Spearman", f"same nearest {NEAREST}"):
        table.add_column(column)
    for size in SIZES:
        for encoding in Encoding:
            dimensions = size or vectors.shape[1]
            rows, count = smaller(vectors, encoding, dimensions)
            rank = spearmanr(exact, (rows @ rows.T)[pairs]).statistic
            kept = np.mean([len(a & b) / NEAREST for a, b in zip(close, nearest(rows), strict=True)])
            table.add_row(str(dimensions), encoding, f"{count:,}", f"{rank:.4f}", f"{100 * kept:.1f} %")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
