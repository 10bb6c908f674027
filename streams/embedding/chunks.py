"""Long texts: windows of whole sentences, none longer than the model reads, and the mean of their vectors."""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from schemas.errors import EmbeddingFailed, TextTooLong
from streams.embedding.embedder import Embedder, Tokens, Vectors
from streams.embedding.tuning import batches

#: Most windows of a text. A deletion has to name the key of every window there may be, so there is no setting for it.
MAX_CHUNKS: Final = 16
#: The share of a window, as 1 / OVERLAP, that may be the end of the one before. About two sentences of one that reads
#: 256 tokens: enough to tell what a pronoun at its start stands for, for at most a quarter more work.
OVERLAP: Final = 5

#: Where a sentence ends: after its mark and the white space that follows, or at the end of a line.
_BORDER: Final = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_SPACE: Final = re.compile(r"\s+")


class Window(NamedTuple):
    """A part of a text, and its tokens."""

    text: str
    tokens: Tokens


class _Piece(NamedTuple):
    """A sentence, or a part of one that is too long: where it ends in the text, and its tokens without special ones."""

    end: int
    cost: int


def windows(text: str, embedder: Embedder) -> list[Window]:
    """The windows of a text, in its order, together all of it. Raises TextTooLong where they are over MAX_CHUNKS.

    Tokens are counted sentence by sentence. Where a tokeniser finds more in a window than in its sentences, its end is
    cut, and its tokens say so.
    """
    special = len(embedder.tokenise([""])[0])
    borders = [*(match.end() for match in _BORDER.finditer(text)), len(text)]
    pieces = list(_pieces(text, borders, embedder, special))
    parts = _packed(pieces, embedder.identity.max_tokens - special)
    if len(parts) > MAX_CHUNKS:
        raise TextTooLong(f"text: expected at most {MAX_CHUNKS} windows of what the model reads, it has {len(parts)}")
    ends = [0, *(piece.end for piece in pieces)]
    texts = [text[ends[first] : ends[last]].strip() for first, last in parts]
    return list(map(Window, texts, embedder.tokenise(texts)))


def _pieces(text: str, borders: Sequence[int], embedder: Embedder, special: int) -> Iterator[_Piece]:
    """What lies between borders, halved until the model can read it."""
    starts = [0, *borders[:-1]]
    tokens = embedder.tokenise([text[start:end] for start, end in zip(starts, borders, strict=True)])
    for start, end, found in zip(starts, borders, tokens, strict=True):
        if found.truncated and end - start > 1:
            yield from _pieces_of(text, start, end, embedder, special)
        elif end > start:
            yield _Piece(end, len(found) - special)


def _pieces_of(text: str, start: int, end: int, embedder: Embedder, special: int) -> Iterator[_Piece]:
    """The halves of a sentence, cut between two words where there are any near its middle."""
    middle = (start + end) // 2
    space = _SPACE.search(text, middle, end)
    middle = space.end() if space is not None and space.end() < end else middle
    for first, last in ((start, middle), (middle, end)):
        [found] = embedder.tokenise([text[first:last]])
        if found.truncated and last - first > 1:
            yield from _pieces_of(text, first, last, embedder, special)
        else:
            yield _Piece(last, len(found) - special)


def _packed(pieces: Sequence[_Piece], most: int) -> list[tuple[int, int]]:
    """Runs of pieces, first and last + 1, each of at most `most` tokens; each begins with the end of the one before."""
    runs, first, last = [], 0, 0
    while True:
        used = sum(piece.cost for piece in pieces[first:last])
        while last < len(pieces) and (used + pieces[last].cost <= most or first == last):
            used, last = used + pieces[last].cost, last + 1
        runs.append((first, last))
        if last == len(pieces):
            return runs
        # What is repeated must leave room for the piece that comes next.
        room = min(most // OVERLAP, most - pieces[last].cost)
        first, before = last, first
        while first - 1 > before and pieces[first - 1].cost <= room:
            first -= 1
            room -= pieces[first].cost


def embedded(parts: Sequence[Window], embedder: Embedder) -> Vectors:
    """A row for each window, shape (windows, dimensions). Raises EmbeddingFailed where one is not finite."""
    longest_first = sorted({part.tokens.ids: part.tokens for part in parts}.values(), key=len, reverse=True)
    found = {
        tokens.ids: row
        for batch in batches(longest_first, embedder.token_budget)
        for tokens, row in zip(batch, embedder.embed(batch), strict=True)
    }
    rows = np.stack([found[part.tokens.ids] for part in parts])
    if not np.isfinite(rows).all():
        raise EmbeddingFailed("the model's vector of a window holds values that are not finite numbers")
    return rows


def pooled(rows: Vectors, parts: Sequence[Window]) -> Vectors:
    """The mean of the windows' vectors, each weighing as many tokens as it has, scaled back to unit length."""
    mean = np.array([len(part.tokens) for part in parts], np.float32) @ rows
    length = np.linalg.norm(mean)
    if not length > 0:
        raise EmbeddingFailed("the vectors of the text's windows cancel each other out")
    return np.asarray(mean / length, np.float32)


def chunk_key(key: bytes, chunk: int) -> bytes:
    """The key of a window's embedding: that of the whole text's, and its place."""
    return b"%b#%d" % (key, chunk)
