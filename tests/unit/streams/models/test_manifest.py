"""Manifests: the same content is the same bytes, and the published schema says what the code reads."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streams.models.manifest import BadManifest, Histogram, Manifest, json_schema

SCHEMA = Path(__file__).parents[4] / "schemas" / "manifest.schema.json"


def content(**changes: Any) -> dict[str, Any]:
    """A whole manifest as JSON, with changes."""
    return {
        "head": "logistic",
        "labels": ["travel", "food"],
        "base": {"name": "m", "revision": "r", "digest": "d" * 64, "precision": "float32", "dimensions": 4},
        "data": {"digest": "a" * 64, "rows": 10, "labels": {"travel": 5, "food": 5}},
        "parameters": {"c": 1.0, "folds": 5},
        "seed": 7,
        "libraries": {"scikit-learn": "1.7.2"},
        "code": "0.1.0",
        "metrics": {"accuracy": 0.9},
        "baseline": {"scores": {"travel": {"edges": [0.5], "counts": [5, 5]}}},
        **changes,
    }


def test_the_schema_file_is_the_model_s() -> None:
    """What others validate against is what this code writes; renew it from `manifest.json_schema()`."""
    assert json.loads(SCHEMA.read_bytes()) == json_schema()


def test_the_order_of_keys_does_not_change_the_bytes() -> None:
    """Dictionaries in another order give the same digest."""
    one = Manifest.model_validate(content(parameters={"a": 1, "b": 2}))
    other = Manifest.model_validate(dict(reversed(content(parameters={"b": 2, "a": 1}).items())))
    assert one.to_bytes() == other.to_bytes()
    assert Manifest.read(one.to_bytes()) == one


def test_what_is_written_fits_the_published_schema() -> None:
    """An independent validator takes it, and refuses one without its data."""
    written = json.loads(Manifest.model_validate(content()).to_bytes())
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_bytes()))
    validator.validate(written)
    del written["data"]
    assert not validator.is_valid(written)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"head": "forest"}, "head"),
        ({"created_at": "2026-01-01"}, "created_at"),
        ({"metrics": {"accuracy": None}}, "metrics.accuracy"),
        ({"seed": None}, "seed"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(changes: dict[str, Any], named: str) -> None:
    """Unknown fields are refused too: a time in it would change the digest of the same training."""
    with pytest.raises(BadManifest, match=named):
        Manifest.read(json.dumps(content(**changes)).encode())


@pytest.mark.parametrize(
    ("edges", "counts"), [((0.5,), (1,)), ((0.5, 0.5), (1, 1, 1)), ((0.5, float("nan")), (1, 1, 1))]
)
def test_a_histogram_that_cannot_count_is_refused(edges: tuple[float, ...], counts: tuple[int, ...]) -> None:
    """One bin more than inner edges, and edges ascend: every value has exactly one bin."""
    with pytest.raises(ValueError, match="edges"):
        Histogram(edges=edges, counts=counts)
