"""Starting the two generators: wrk for the closed loop, `open_loop` for the open one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.load.open_loop import Plan

SCRIPT = Path(__file__).with_name("wrk.lua")


class GeneratorFailed(Exception):
    """A generator is not here, or did not end as it should; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Closed:
    """What callers who ask again as soon as they are answered saw: requests a second, milliseconds, failures."""

    rate: float
    p50: float
    p99: float
    failed: int


@dataclass(frozen=True, slots=True)
class Open:
    """What callers saw who come whenever they come: milliseconds of each answer by status."""

    milliseconds: dict[int, np.ndarray]
    lost: int
    good: float
    late: float

    def percentile(self, share: float, statuses: Collection[int] = (200,)) -> float:
        """Milliseconds that this share of the answers with these statuses took at most; nan where there were none."""
        taken = [times for status, times in self.milliseconds.items() if status in statuses]
        return float(np.percentile(np.concatenate(taken), share)) if taken else float("nan")

    def count(self, *statuses: int) -> int:
        """How many answers had one of these statuses."""
        return sum(len(self.milliseconds.get(status, ())) for status in statuses)

    @property
    def failed(self) -> int:
        """Requests whose answer was no 200, or that had none."""
        return self.lost + sum(len(times) for status, times in self.milliseconds.items() if status != 200)


def closed(
    port: int, path: str, bodies: Sequence[str], connections: int, seconds: float, cores: Collection[int]
) -> Closed:
    """Asks over so many connections at once, on these processors, each as soon as it is answered."""
    if shutil.which("wrk") is None:
        raise GeneratorFailed("wrk is not here: apt-get install wrk")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(bodies))
        file.flush()
        url = f"http://127.0.0.1:{port}{path}"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", str(SCRIPT), url]
        said = _run([*command, "--", file.name], "", seconds, cores)
    found = json.loads(said.splitlines()[-1])
    return Closed(found["good"] / found["us"] * 1e6, found["p50"] / 1e3, found["p99"] / 1e3, found["failed"])


def opened(plan: Plan, cores: Collection[int]) -> Open:
    """Sends what the plan says, from these processors."""
    command = [sys.executable, "-m", "benchmarks.load.open_loop"]
    found = json.loads(_run(command, json.dumps(asdict(plan)), plan.seconds + plan.patience, cores))
    milliseconds = {int(status): np.array(times) * 1e3 for status, times in found["seconds"].items()}
    return Open(milliseconds, found["lost"], found["good_per_second"], found["late"] * 1e3)


def _run(command: Sequence[str], given: str, seconds: float, cores: Collection[int]) -> str:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=seconds + 60, check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )  # fmt: skip
    if done.returncode:
        raise GeneratorFailed(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
