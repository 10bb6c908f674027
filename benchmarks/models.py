"""The model as workers use it: prepared once, kept beside the benchmarks, found by every worker that is measured."""

import os
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from streams.embedding.loader import DEFAULT_MODEL
from streams.embedding.prepare import Sentences, Workshop

FOLDER = Path(os.environ.get("STREAMS_MODELS_DIR") or Path(__file__).parent / ".models")

console = Console(stderr=True, highlight=False)


def prepare() -> None:
    """Prepares the default model in float32 and int8 where that has not been done; a minute or two."""
    sample = (files("agents") / "samples" / "sentences.txt").read_text(encoding="utf-8")
    workshop = Workshop(FOLDER, Sentences.split(sample.splitlines()), lambda what: console.print(f"  {what}"))
    for precision in ("float32", "int8"):
        workshop.prepare(DEFAULT_MODEL, None, precision)
