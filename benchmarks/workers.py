"""Workers as such: how soon one is ready and how much memory it takes, and what a second one on a second core adds."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.figures import Figure
from benchmarks.stream import running

#: Records that a worker embeds before its memory is measured.
WARM = 200


async def ready(servers: str, folder: Path, texts: Sequence[str], rounds: int) -> list[Figure]:
    """Seconds from the start of a process to a worker that is in its group, and its memory after some work, in MB."""
    seconds, megabytes, torch = [], [], []
    for turn in range(rounds):
        started = time.perf_counter()
        async with running(servers, folder, f"ready-{turn}", model_backend="onnx") as stream:
            seconds.append(time.perf_counter() - started)
            stream.backlog(texts[:WARM], "warm")
            megabytes.append(psutil.Process(stream.pids[0]).memory_info().rss / 1e6)
            torch.append(float("libtorch" in Path(f"/proc/{stream.pids[0]}/maps").read_text()))
    return [
        Figure("a worker on onnx, from its start to ready", "s", seconds, "< 2"),
        Figure("the same, memory after some work", "MB", megabytes, "< 300"),
        Figure("the same, loads torch (0: no)", "", torch, "= 0"),
    ]


async def second(servers: str, folder: Path, texts: Sequence[str], rounds: int) -> Figure | None:
    """The rate of two workers on a core each, divided by that of one worker on one core; None on a single core."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return None
    ratios = []
    for turn in range(rounds):
        took = []
        for chosen in (cores[:1], cores):
            name = f"workers-{turn}-{len(chosen)}"
            async with running(servers, folder, name, chosen) as stream:
                stream.backlog(texts[:WARM], "warm")
                took.append(stream.backlog(texts, "whole"))
        ratios.append(took[0] / took[1])
    return Figure("two workers on two cores : one worker on one", "x", ratios, ">= 1.9")
