"""The golden check: before a worker joins its group, its model must give the vectors it gave before.

`golden.json` holds sentences and, for the default model, their vectors (float32, little-endian, base64).
Written by `python -m streams.embedding.golden`, with sentence-transformers' own `encode`, one sentence at a
time: only when the default model or the sentences change.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from streams.embedding import quality
from streams.embedding.embedder import Embedder, Identity, ModelError, Vectors

#: Cosine below which two vectors of one sentence are not the same.
TOLERANCE = 0.9999

_FILE = Path(__file__).with_name("golden.json")


class GoldenMismatch(ModelError):
    """The model loads but does not give the vectors it should; nothing it embeds can be trusted."""


def sentences() -> list[str]:
    """The golden sentences, of mixed lengths."""
    found: list[str] = _golden()["sentences"]
    return found


def vectors(embedder: Embedder) -> Vectors:
    """An embedder's vectors of the golden sentences, one at a time; shape (sentences, dimensions)."""
    return quality.alone(embedder, sentences())


def check(embedder: Embedder, own: Vectors | None = None) -> None:
    """Embed a few sentences, alone and as one batch of mixed lengths. Raises GoldenMismatch.

    Every model: vectors are finite, of unit length, and do not depend on their batch. A model with stored
    vectors also: they match, cosine >= 0.9999; `own` are those that were stored when the model was prepared, for
    models that have none here. Takes about as long as ten single sentences.
    """
    alone = vectors(embedder)
    together = embedder.embed(embedder.tokenise(sentences()))
    _check_rows(alone, (len(sentences()), embedder.identity.dimensions))
    _compare(alone, together, "alone and in a batch")
    stored = stored_vectors(embedder.identity)
    stored = own if stored is None else stored
    if stored is not None:
        _compare(alone, stored, "now and as stored")


def stored_vectors(identity: Identity) -> Vectors | None:
    """Vectors of the golden sentences for this very model, shape (sentences, dimensions), or None."""
    golden = _golden()
    if (identity.digest, identity.precision, identity.prompt) != (golden["digest"], golden["precision"], ""):
        return None
    return unpacked(golden["vectors"])


def packed(rows: Iterable[Vectors]) -> list[str]:
    """Vectors as text: float32, little-endian, base64."""
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]


def unpacked(rows: Iterable[str]) -> Vectors:
    """What was `packed`, shape (rows, dimensions)."""
    return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows]).astype(np.float32)


def _check_rows(vectors: Vectors, shape: tuple[int, int]) -> None:
    if vectors.shape != shape:
        raise GoldenMismatch(f"golden check: vectors of shape {vectors.shape}, expected {shape}")
    for number, length in enumerate(np.linalg.norm(vectors, axis=1), start=1):
        if not abs(length - 1) <= 1 - TOLERANCE:  # so written, NaN fails too
            raise GoldenMismatch(f"golden check: sentence {number}: vector of length {length:.6f}, not 1")


def _compare(left: Vectors, right: Vectors, what: str) -> None:
    if left.shape != right.shape:
        raise GoldenMismatch(f"golden check: vectors of shapes {left.shape} and {right.shape} {what}")
    for number, cosine in enumerate(np.einsum("ij,ij->i", left, right), start=1):
        if not cosine >= TOLERANCE:
            raise GoldenMismatch(
                f"golden check: sentence {number}: cosine {cosine:.6f} {what}, expected at least {TOLERANCE}"
            )


def _golden() -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return golden


def _write() -> None:
    """Store the default model's vectors, computed by the reference library itself."""
    from sentence_transformers import SentenceTransformer

    from streams.embedding.loader import DEFAULT_DIGEST, DEFAULT_MODEL, DEFAULT_REVISION, find

    model = SentenceTransformer(str(find(DEFAULT_MODEL).folder), device="cpu", local_files_only=True)
    rows = [model.encode([sentence])[0].astype("<f4") for sentence in sentences()]
    golden = {
        "model": DEFAULT_MODEL,
        "revision": DEFAULT_REVISION,
        "digest": DEFAULT_DIGEST,
        "precision": "float32",
        "sentences": sentences(),
        "vectors": packed(rows),
    }
    _FILE.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
