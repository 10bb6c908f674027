"""A loaded model as the stage uses it, and where it asks which one a sentence gets."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from schemas.errors import UnknownModel
from schemas.records import Served
from streams.embedding.embedder import Embedder
from streams.embedding.identity import identity_key
from streams.scoring.scorer import Scorer

_NOBODY: Mapping[str, Scorer] = MappingProxyType({})


class Model:
    """An embedder with everything that follows from it; what was prepared for one holds on to it until it is done."""

    __slots__ = ("embedder", "identity", "key", "scorers", "served")

    def __init__(self, embedder: Embedder, scorers: Mapping[str, Scorer] = _NOBODY) -> None:
        """`scorers` understand its vectors."""
        self.embedder = embedder
        self.identity = identity = embedder.identity
        #: Names everything besides the text that decides a vector.
        self.key = identity_key(identity)
        self.scorers = scorers
        #: What replies say of it.
        self.served = Served(
            model=identity.name,
            revision=identity.revision,
            weights_digest=identity.digest,
            precision=identity.precision,
            dimensions=identity.dimensions,
            max_tokens=identity.max_tokens,
            identity=self.key,
            scorers=_names(scorers, pair=False),
            rerankers=_names(scorers, pair=True),
        )

    def served_with(self, scorers: Mapping[str, Scorer]) -> Served:
        """What replies say of it where other scorers answer than its own."""
        if scorers is self.scorers:
            return self.served
        return replace(self.served, scorers=_names(scorers, pair=False), rerankers=_names(scorers, pair=True))


def _names(scorers: Mapping[str, Scorer], *, pair: bool) -> tuple[str, ...]:
    return tuple(name for name, scorer in scorers.items() if (scorer.needs == "pair") is pair)


class Models(Protocol):
    """Which model a sentence gets; called for every record, so an answer costs no more than a look into a dict."""

    @property
    def default(self) -> Model:
        """What a sentence gets that asks for none."""
        ...

    def find(self, name: str | None, sentence_id: str) -> Model:
        """The model for a sentence that asks for an alias, a full name, or nothing.

        Raises UnknownModel, or ModelLoading where it will be there soon.
        """
        ...

    def shadow(self, name: str | None, sentence_id: str) -> Model | None:
        """What is to embed it as well, for nobody to see; mostly nothing."""
        ...


class OneModel:
    """Every sentence gets the same model."""

    def __init__(self, model: Model) -> None:
        self.default = model
        self._names = frozenset({None, model.identity.name})

    def find(self, name: str | None, sentence_id: str) -> Model:
        """The model. Raises UnknownModel where a sentence asks for another one."""
        if name not in self._names:
            raise UnknownModel(f"model: expected null or {self.default.identity.name}, got {name!r}")
        return self.default

    def shadow(self, name: str | None, sentence_id: str) -> Model | None:
        """Nothing."""
        return None
