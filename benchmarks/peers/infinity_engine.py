"""Infinity's engine, fed directly: no HTTP, no Kafka. Reads a file's name a line, answers with the seconds it took."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from infinity_emb import AsyncEmbeddingEngine, EngineArgs


async def main() -> None:
    """Serves until stdin ends."""
    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(model_name_or_path=os.environ["MODEL"], engine="torch", device="cpu", lengths_via_tokenize=True)
    )
    async with engine:
        await engine.embed(["warm up"] * 64)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            texts = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
            started = time.perf_counter()
            await engine.embed(sentences=texts)
            print(time.perf_counter() - started, flush=True)


asyncio.run(main())
