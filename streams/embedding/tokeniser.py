"""Texts become tokens with the model's own fast tokenizer, the same way for every backend; and batches get padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from streams.embedding.embedder import Tokens

_HEAD = 64  # characters a token, far more than any language takes


@dataclass(frozen=True, slots=True)
class Padding:
    """How a model wants short texts filled up; where they are masked, its vectors do not depend on it."""

    id: int = 0
    left: bool = False


class Tokeniser:
    """A model's tokenizer, cutting at the model's limit; any number of threads may use one."""

    def __init__(self, tokenizer: Tokenizer, *, prompt: str, limit: int) -> None:
        """`tokenizer` cuts at `limit` tokens and does not pad; `prompt` is put before every text."""
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._limit = limit

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, in order; the work is outside Python's lock.

        A document is read only as far as it matters: its head first, all of it if the head was not enough.
        """
        head = _HEAD * self._limit
        found = self._encode([text[:head] for text in texts])
        for row, text in enumerate(texts):
            if len(text) > head and not found[row].truncated:
                found[row] = self._encode([text])[0]
        return found

    def _encode(self, texts: list[str]) -> list[Tokens]:
        prompted = [self._prompt + text for text in texts] if self._prompt else texts
        return [self._tokens(encoding) for encoding in self._tokenizer.encode_batch_fast(prompted)]

    def _tokens(self, encoding: Encoding) -> Tokens:
        ids = tuple(encoding.ids)
        # Asking for what was cut off copies it, so only a text of full length is asked.
        return Tokens(ids, truncated=len(ids) == self._limit and bool(encoding.overflowing))


def pad(batch: Sequence[Tokens], padding: Padding) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids padded to the longest text of the batch, and the mask of what is real; shape (rows, longest)."""
    lengths = np.fromiter(map(len, batch), np.int64, len(batch))
    mask = np.arange(max(lengths.max(), 1)) < lengths[:, None]
    mask = mask[:, ::-1] if padding.left else mask
    ids = np.full(mask.shape, padding.id, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(tokens.ids for tokens in batch), np.int64, lengths.sum())
    return ids, mask.astype(np.int64)
