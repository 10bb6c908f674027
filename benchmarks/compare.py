"""Two revisions in one run, turn about: what a record costs, and how fast a backlog becomes vectors."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import overhead
from benchmarks.figures import Figure
from benchmarks.stream import running

#: A revision is worse where its median is further from 1 than this.
NOISE = 0.05


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """The product's code at a revision, in a work tree of its own."""
    tree = folder / "revision"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, revision], check=True, cwd=overhead.ROOT)
    try:
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", tree], check=True, cwd=overhead.ROOT)


async def measure(
    revision: str, servers: str, folder: Path, texts: list[str], records: int, rounds: int
) -> list[Figure]:
    """Their cost and their time, divided by ours: more than 1 says that the code here is better."""
    cost, time = [], []
    with checked_out(revision, folder) as tree:
        theirs = replace(overhead.OURS, root=tree)
        for turn in range(rounds):
            before = overhead.cpu_per_record(theirs, servers, records, folder)
            cost.append(before / overhead.cpu_per_record(overhead.OURS, servers, records, folder))
            took = []
            for name, root in (("theirs", tree), ("ours", overhead.ROOT)):
                async with running(servers, folder, f"{name}-{turn}", root=root) as stream:
                    stream.backlog(texts[:200], "warm")
                    took.append(stream.backlog(texts, "whole"))
            time.append(took[0] / took[1])
    goal = f">= {1 - NOISE}"
    return [
        Figure(f"CPU a record, {revision} : here", "x", cost, goal),
        Figure(f"seconds for a backlog of {len(texts):,}, {revision} : here", "x", time, goal),
    ]


def regressed(figures: list[Figure]) -> bool:
    """Whether the code here is worse than the other revision's, beyond noise."""
    return any(figure.median < 1 - NOISE for figure in figures)
