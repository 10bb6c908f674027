"""Our worker with an embedder that does nothing: what is left is the stream's own cost."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agents.embed import serve
from streams.embedding.embedder import Tokens, Vectors
from streams.observe.logs import configure
from streams.settings import load
from streams.testing.embedder import DeterministicEmbedder

#: As hard to compress as the results of the programs beside it, and made before the count begins.
VECTORS = np.random.default_rng(1).standard_normal((4096, 384), np.float32) / np.float32(384**0.5)


class NoEmbedder:
    """Embeds every text as a vector that is there already."""

    identity = replace(DeterministicEmbedder.identity, name="none", pooling="none")
    concurrency = 1
    token_budget = 512

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """One token a text."""
        return [Tokens((1,))] * len(texts)

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Rows of shape (len(batch), 384)."""
        return VECTORS[: len(batch)]


if __name__ == "__main__":
    configure(settings := load())
    asyncio.run(serve(settings, NoEmbedder()))
