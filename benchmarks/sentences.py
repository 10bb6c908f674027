"""The texts of the benchmarks: sentences of mixed length, each of them once, so that nothing is saved by repeats."""

import random
from pathlib import Path

SAMPLE = Path(__file__).parents[1] / "agents" / "samples" / "sentences.txt"


def sentences(count: int) -> list[str]:
    """Returns `count` different sentences: the sample's, then the same with their words rotated."""
    lines = [line for line in dict.fromkeys(SAMPLE.read_text(encoding="utf-8").splitlines()) if line.strip()]
    texts: dict[str, None] = {}
    turn = 0
    while len(texts) < count:
        for line in lines:
            words = line.split(" ")
            shift = turn % len(words)
            texts.setdefault(" ".join(words[shift:] + words[:shift]) + (f" {turn}" if turn >= len(words) else ""))
        turn += 1
    chosen = list(texts)[:count]
    random.Random(11).shuffle(chosen)
    return chosen
