"""Batches get padded."""

import numpy as np
import pytest

from streams.embedding.embedder import Tokens
from streams.embedding.tokeniser import Padding, pad

BATCH = [Tokens((5, 6)), Tokens((7, 8, 9)), Tokens(())]


def test_short_texts_are_filled_up_at_the_end() -> None:
    """Ids are filled up to the longest text with the padding's id, and the mask says what is real."""
    ids, mask = pad(BATCH, Padding(id=1))

    assert ids.tolist() == [[5, 6, 1], [7, 8, 9], [1, 1, 1]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert (ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_some_models_want_it_in_front() -> None:
    """Padding on the left keeps the order of the ids."""
    ids, mask = pad(BATCH, Padding(id=1, left=True))

    assert ids.tolist() == [[1, 5, 6], [7, 8, 9], [1, 1, 1]]
    assert mask.tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("left", [False, True])
def test_a_text_without_tokens_is_a_column_of_padding(left: bool) -> None:
    """No model takes a batch without columns, so there is always one."""
    ids, mask = pad([Tokens(())], Padding(left=left))

    assert (ids.tolist(), mask.tolist()) == ([[0]], [[0]])
