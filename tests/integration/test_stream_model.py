"""The stream with the real model, against what sentence-transformers itself computes."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from streams.embedding.loader import DEFAULT_DIGEST, DEFAULT_MODEL, DEFAULT_REVISION, find
from tests.support.kafka import HasBrokers
from tests.support.stream import Stream, encoded

SENTENCES = 300


@pytest.mark.model
def test_vectors_are_those_of_the_reference_library(kafka: HasBrokers, tmp_path: Path) -> None:
    """Real sentences of several languages: cosine of at least 0.99999 with `encode` for each, and one score each."""
    lines = (files("agents") / "samples" / "sentences.txt").read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if line.strip()]
    texts = texts[:: len(texts) // SENTENCES][:SENTENCES]
    with Stream(kafka.bootstrap_servers, tmp_path, model=DEFAULT_MODEL) as stream:
        stream.send({"value": encoded(number, text=text)} for number, text in enumerate(texts))
        worker, scorer = stream.start("worker"), stream.start("score")
        model = SentenceTransformer(str(find(DEFAULT_MODEL).folder), device="cpu", local_files_only=True)
        expected = model.encode(texts, batch_size=32, normalize_embeddings=True)
        worker.ready()
        scorer.ready()
        stream.finish()
        stream.finish_scores()
        found = {embedding.sentence_id: embedding for _, embedding in stream.embeddings()}
        scored = [score.sentence_id for _, score in stream.scores()]
    ids = [f"s-{number}" for number in range(SENTENCES)]
    assert sorted(scored) == sorted(found) == sorted(ids)
    cosines = np.einsum("ij,ij->i", np.stack([found[name].vector for name in ids]), expected)
    assert cosines.min() >= 0.99999
    made = {(each.model, each.revision, each.weights_digest) for each in found.values()}
    assert made == {(DEFAULT_MODEL, DEFAULT_REVISION, DEFAULT_DIGEST)}
