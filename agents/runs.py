"""Training runs as people ask for them and see them: the same on the command line and over HTTP."""

from collections.abc import Mapping
from typing import Any

from streams.models.datasets import FORMATS, SCHEMES

#: How a source begins that is a topic.
TOPIC = "topic:"


def unusable(source: str) -> str | None:
    """Says what was expected where a trainer cannot read labels from there; it never reads its own disk."""
    if source.startswith(TOPIC) and source != TOPIC:
        return None
    if source.startswith(SCHEMES) and source.lower().endswith(tuple(FORMATS)):
        return None
    return f"expected topic:NAME, or a URL with {', '.join(SCHEMES)} that ends in {', '.join(FORMATS)}"


def summary(run: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the catalog's training runs, as JSON has it."""
    progress: Mapping[str, Any] = run["progress"]
    made = ("rows", "labels", "metrics", "warnings", "comparison")
    return {
        "object": "training_run",
        "id": run["id"],
        "scorer": run["alias"],
        "status": run["status"],
        "progress": progress if "step" in progress else None,
        "version": run["digest"],
        **{name: progress.get(name) for name in made},
        "detail": run["detail"],
        "request": run["request"],
        "created_at": run["created_at"],
        "updated_at": run["updated_at"],
    }
