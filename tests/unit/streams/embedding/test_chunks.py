"""Windows of long texts: what is in each, and what comes of their vectors."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from schemas.errors import EmbeddingFailed, TextTooLong
from streams.embedding.chunks import MAX_CHUNKS, OVERLAP, Window, embedded, pooled, windows
from streams.embedding.embedder import Tokens, Vectors
from streams.testing import DeterministicEmbedder

MODEL = DeterministicEmbedder()
MOST = MODEL.identity.max_tokens
SENTENCES = [f"Sentence {n} is one of {'rather ' * (n % 7)}many." for n in range(150)]


def test_windows_are_of_whole_sentences_and_overlap() -> None:
    """Each ends where a sentence does and begins with the end of the one before; the model reads all of it."""
    found = windows(" ".join(SENTENCES), MODEL)
    lists = [[each for each in SENTENCES if each in window.text] for window in found]
    assert len(found) > 2
    for window, inside in zip(found, lists, strict=True):
        assert window.text == " ".join(inside)
        assert window.tokens == MODEL.tokenise([window.text])[0]
        assert not window.tokens.truncated
    for before, after in pairwise(lists):
        both = [each for each in before if each in after]
        assert both == before[-len(both) :] == after[: len(both)]
        assert 0 < len(" ".join(both).split()) <= MOST // OVERLAP
    assert list(dict.fromkeys(each for inside in lists for each in inside)) == SENTENCES


@pytest.mark.parametrize("mark", [".", "!", "?”", "…", "\n"])
def test_a_sentence_ends_at_its_mark_or_line(mark: str) -> None:
    """Quotes after the mark belong to it."""
    lines = [f"{'word ' * 99}{n}{mark}" for n in range(6)]
    for window in windows(" ".join(lines), MODEL):
        assert window.text.endswith(mark.strip() or tuple("012345"))


def test_a_sentence_longer_than_a_window_is_cut_between_words() -> None:
    """Nothing of it is lost."""
    words = [f"w{n}" for n in range(1000)]
    found = windows(" ".join(words), MODEL)
    assert list(dict.fromkeys(word for window in found for word in window.text.split())) == words


def test_too_many_windows_are_refused() -> None:
    """The limit itself is fine; one more is not."""
    full = " ".join(f"{'w ' * (MOST - 1)}w." for _ in range(MAX_CHUNKS))
    assert len(windows(full, MODEL)) == MAX_CHUNKS
    with pytest.raises(TextTooLong, match=f"at most {MAX_CHUNKS} windows"):
        windows(f"{full} More.", MODEL)


class Small(DeterministicEmbedder):
    """Takes two full windows at once."""

    token_budget = 2 * MOST

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Remembers how much it got."""
        self.batches.append(len(batch) * max(map(len, batch)))
        return super().embed(batch)


def test_windows_are_embedded_within_the_budget() -> None:
    """However long a text is, the model never gets more at once than otherwise; equal windows once."""
    model = Small()
    parts = windows(" ".join(SENTENCES), model)
    rows = embedded([*parts, parts[0]], model)
    assert max(model.batches) <= model.token_budget
    assert len(model.batches) > 1
    np.testing.assert_array_equal(rows, [*MODEL.embed([each.tokens for each in parts]), rows[0]])


def test_a_window_weighs_as_many_tokens_as_it_has() -> None:
    """The mean is of unit length; where nothing is left of it, there is no vector."""
    parts = [Window("", Tokens((1, 2, 3))), Window("", Tokens((4,)))]
    rows = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(pooled(rows, parts), np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
    with pytest.raises(EmbeddingFailed):
        pooled(np.array([[1, 0], [-3, 0]], np.float32), parts)
