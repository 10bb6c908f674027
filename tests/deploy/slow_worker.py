"""A worker that does so many sentences a second, whatever the machine: `python -m tests.deploy.slow_worker worker`."""

import asyncio
import os
import time
from collections.abc import Sequence

from agents.embed import serve
from streams.embedding.embedder import Tokens, Vectors
from streams.observe.logs import configure
from streams.settings import load
from streams.testing.embedder import DeterministicEmbedder

#: Environment variable with the sentences a second.
RATE = "TEST_WORKER_RATE"


class SlowEmbedder(DeterministicEmbedder):
    """Takes its time, and no processor's."""

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        time.sleep(len(batch) / float(os.environ[RATE]))
        return super().embed(batch)


if __name__ == "__main__":
    settings = load()
    configure(settings)
    asyncio.run(serve(settings, SlowEmbedder()))
