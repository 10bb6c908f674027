"""How long one sentence takes: on an idle stream, and in the interactive lane while a backlog drains."""

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.figures import Figure
from benchmarks.stream import Stream
from streams.lanes import LaneName


def idle(stream: Stream, encode: Callable[[str], float], texts: Sequence[str], rounds: int) -> Figure:
    """What the stream adds to one sentence: p50 from produced to consumed, less that of the bare call, in ms."""
    stream.one_by_one(texts[:20], "warm")
    added = []
    for turn in range(rounds):
        bare = statistics.median(encode(text) for text in texts)
        whole = statistics.median(stream.one_by_one(texts, f"idle-{turn}"))
        added.append((whole - bare) * 1000)
    return Figure("one sentence on an idle stream, p50 less the bare call's", "ms", added, "<= 8")


def under_load(stream: Stream, texts: Sequence[str], backlog: Sequence[str], rounds: int) -> Figure:
    """The interactive lane's p99 while a bulk backlog drains, divided by its p99 without one."""
    ratios = []
    for turn in range(rounds):
        alone = _p99(stream.one_by_one(texts, f"alone-{turn}", LaneName.INTERACTIVE))
        with stream.draining(backlog, f"bulk-{turn}"):
            beside = _p99(stream.one_by_one(texts, f"beside-{turn}", LaneName.INTERACTIVE))
        ratios.append(beside / alone)
    return Figure("interactive p99 while a backlog drains : without", "x", ratios, "<= 2")


def _p99(seconds: Sequence[float]) -> float:
    return float(np.percentile(seconds, 99))
