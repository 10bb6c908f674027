"""A figure, the machine it was measured on, and how both are shown and kept."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch", "onnxruntime", "openvino", "sentence-transformers", "numpy",
    "faust-streaming", "aiokafka", "confluent-kafka",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: what was measured in each round, and what it should reach."""

    name: str
    unit: str
    values: Sequence[float]
    goal: str

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """The least and the most of the rounds."""
        return f"{min(self.values):.2f} to {max(self.values):.2f}"


def show(figures: Sequence[Figure]) -> None:
    """Prints the table, and writes it as JSON beside the machine it was measured on."""
    about = machine()
    table = Table(title=f"{about['processor']}, {about['processors']} processors")
    for column in ("figure", "median", "spread", "goal"):
        table.add_column(column)
    for figure in figures:
        table.add_row(figure.name, f"{figure.median:.2f} {figure.unit}", figure.spread, figure.goal)
    Console(width=140).print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({"machine": about, "figures": [asdict(figure) for figure in figures]}, indent=2))
    print(f"written to {path}")


def machine() -> dict[str, Any]:
    """What decides the figures beside the code."""
    model = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "?")
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "revision": revision,
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
