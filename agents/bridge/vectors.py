"""From texts to vectors: those that are known, then those that a worker is asked for."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from agents.bridge.asking import Name, ask, check_model, served, settled, switching
from agents.bridge.calls import Call
from agents.bridge.problems import invalid
from schemas.records import Overflow, Reply, Sentence, Served
from streams.cache import VectorCache
from streams.embedding.embedder import Vectors
from streams.embedding.identity import content_key


class Vector(NamedTuple):
    """The vector of a text, and what the model read of it."""

    values: Vectors
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """How texts are to be embedded; None leaves it to the model."""

    model: str | None = None
    dimensions: int | None = None
    overflow: Literal["truncate", "reject", "chunk"] = "truncate"


@dataclass(frozen=True, slots=True)
class Found:
    """One vector a text, in order, all of one model; `keys` name each by all that decides it."""

    vectors: Sequence[Vector]
    keys: Sequence[str]
    served: Served
    dimensions: int

    @property
    def tokens(self) -> int:
        """Tokens that the model read, or would have."""
        return sum(vector.tokens for vector in self.vectors)


async def vectors(call: Call, texts: Sequence[str], wanted: Wanted, name: Name) -> Found:
    """Returns a vector for each text; `name` gives the place of each in the body. Raises Problem, and HungUp.

    Vectors of two models never mix: where the model is switched meanwhile, all are asked for once more.
    """
    places: dict[str, int] = {}
    for index, text in enumerate(texts):
        places.setdefault(text, index)
    check_model(call, wanted.model, served(call))
    for _ in range(2):
        model = settled(call, wanted.model)
        known = await _known(call, places, wanted, model) if model else {}
        asked = [text for text in places if text not in known]
        if asked:
            sentences = [_sentence(call, places[text], text, wanted) for text in asked]
            replies = await ask(call, sentences, lambda n, asked=asked: name(places[asked[n]]))  # type: ignore[misc]
            answered = replies[0].served
            if known and model and answered.identity != model.identity:
                call.bridge.known.learn(asked, replies, wanted.dimensions)
                continue
            known |= call.bridge.known.learn(asked, replies, wanted.dimensions)
            model = answered
        assert model is not None  # nothing is known without it
        call.note.fields.update(model=model.model, sentences=len(texts), cached=len(places) - len(asked))
        size = wanted.dimensions or model.dimensions
        keys = [content_key(text, model.identity, size) for text in texts]
        return Found([known[text] for text in texts], keys, model, size)
    raise switching()


async def _known(call: Call, texts: Iterable[str], wanted: Wanted, model: Served) -> dict[str, Vector]:
    """Returns what is known of these texts; raises Problem where this model cannot do what is wanted."""
    size = wanted.dimensions or model.dimensions
    if size > model.dimensions:
        raise invalid([{"field": "/dimensions", "expected": f"1 to {model.dimensions}"}])
    known = await call.bridge.known.find({text: content_key(text, model.identity, size) for text in texts})
    if wanted.overflow != "truncate":
        return {text: vector for text, vector in known.items() if not vector.truncated}
    return known


def _sentence(call: Call, index: int, text: str, wanted: Wanted) -> Sentence:
    return Sentence(
        id=f"{call.id}/{index}",
        text=text,
        model=wanted.model,
        dimensions=wanted.dimensions,
        overflow=Overflow(wanted.overflow),
    )


class KnownVectors:
    """Vectors that were answered before; in the cache each carries its token count and whether the text was cut.

    A worker caches bare vectors under a key of their own: it counts tokens anyway.
    """

    def __init__(self, cache: VectorCache | None, *, shared: bool) -> None:
        """`shared`: other processes see what is put into the cache, and putting may block."""
        self._cache, self._shared = cache, shared
        self._unshared: dict[str, Vectors] = {}
        self._sharing: asyncio.Task[None] | None = None

    async def find(self, keys: Mapping[str, str]) -> dict[str, Vector]:
        """Returns text -> vector, of those that are known; `keys` are by text."""
        if self._cache is None:
            return {}
        rows = await self._cache.find_many([_row_key(key) for key in keys.values()])
        return {text: _vector(row) for text, row in zip(keys, rows, strict=True) if row is not None}

    def learn(self, texts: Sequence[str], replies: Sequence[Reply], dimensions: int | None) -> dict[str, Vector]:
        """Keeps what workers answered, each under the model that made it; returns text -> vector.

        `dimensions` are those that were asked for; None: all of the model's.
        """
        learnt, rows = {}, {}
        for text, reply in zip(texts, replies, strict=True):
            if (made := reply.embedding) is not None:
                learnt[text] = Vector(made.vector, made.token_count, made.truncated)
                size = dimensions or reply.served.dimensions
                if made.chunks == 1:  # else it is another vector than that of the text's beginning, which the key names
                    rows[_row_key(content_key(text, reply.served.identity, size))] = _row(learnt[text])
        if self._cache is not None:
            self._cache.remember(rows)
            if self._shared:
                self._share(rows)
        return learnt

    async def close(self) -> None:
        """Shares what is not shared yet, and ends the cache."""
        if self._sharing is not None:
            await self._sharing
        if self._cache is not None:
            await asyncio.to_thread(self._cache.close)

    def _share(self, rows: Mapping[str, Vectors]) -> None:
        self._unshared.update(rows)
        if self._sharing is None or self._sharing.done():
            self._sharing = asyncio.get_running_loop().create_task(self._put())

    async def _put(self) -> None:
        while self._cache is not None and self._unshared:
            rows, self._unshared = self._unshared, {}
            await asyncio.to_thread(self._cache.put_many, rows)


def _row_key(key: str) -> str:
    return f"{key}:row"


def _row(vector: Vector) -> Vectors:
    # float32 holds every whole number up to 16 million: more tokens than any model reads.
    return np.append(vector.values, np.array([vector.tokens, vector.truncated], np.float32))


def _vector(row: Vectors) -> Vector:
    return Vector(row[:-2], int(row[-2]), bool(row[-1]))
