"""What every backend shares: tokens and shortened vectors."""

import subprocess
import sys

import numpy as np
import pytest

from schemas.errors import EmbeddingFailed, InvalidField
from streams.embedding.embedder import Tokens, shorten


def test_tokens_are_compared_by_content() -> None:
    """Equal token ids make equal, hashable tokens, and their length is the token count."""
    assert Tokens((101, 7, 102)) == Tokens((101, 7, 102))
    assert len({Tokens((1, 2)), Tokens((1, 2)), Tokens((1, 3)), Tokens((1, 2), truncated=True)}) == 3
    assert len(Tokens((101, 7, 102))) == 3


def test_shorten_keeps_the_first_dimensions_at_unit_length() -> None:
    """A shortened vector is the head of the full one, scaled: (0.6, 0) becomes (1, 0)."""
    vector = np.array([0.6, 0.0, 0.8], dtype=np.float32)

    assert shorten(vector, 2).tolist() == [1.0, 0.0]
    assert shorten(vector, 2).dtype == np.float32
    assert shorten(np.stack([vector, vector]), 2).tolist() == [[1.0, 0.0], [1.0, 0.0]]


def test_shorten_to_the_full_size_changes_no_bit() -> None:
    """Asking for all dimensions gives the very vector back."""
    vector = np.array([0.6, 0.0, 0.8], dtype=np.float32)

    assert shorten(vector, 3) is vector


@pytest.mark.parametrize("dimensions", [0, -1, 4])
def test_shorten_rejects_impossible_sizes(dimensions: int) -> None:
    """Fewer than one dimension or more than the model has is a reject that names the field."""
    with pytest.raises(InvalidField, match=f"dimensions: expected 1 to 3, got {dimensions}"):
        shorten(np.ones(3, dtype=np.float32), dimensions)


@pytest.mark.parametrize("head", [0.0, np.nan])
def test_shorten_never_returns_a_vector_without_direction(head: float) -> None:
    """A head of zeros or NaN is a failure of this embedding, not a vector of NaN."""
    with pytest.raises(EmbeddingFailed):
        shorten(np.array([head, head, 1.0], dtype=np.float32), 2)


def test_importing_loads_no_model_library() -> None:
    """Protocol, loader, golden check, scorers and fakes import in a process that never loads torch."""
    modules = "streams.embedding.loader, streams.embedding.golden, streams.scoring.loader, streams.testing"
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'huggingface_hub'}"
    code = f"import sys, {modules}; sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
