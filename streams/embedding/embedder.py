"""What an embedder is, whichever library runs the model.

Nothing here imports a model library: a worker on another backend never pays for torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import EmbeddingFailed, InvalidField, StreamsError

Vectors = NDArray[np.float32]


class ModelError(StreamsError):
    """The model cannot be used; the message says why and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it.

    Equal texts give equal tokens. Two texts may differ and still share `ids` (in case, in what was cut off):
    their vectors are the same, so whoever embeds equal texts once should compare `ids`.
    """

    #: Token ids, special tokens included, never more than the model's `max_tokens`.
    ids: tuple[int, ...]
    #: Whether the text was longer than that and lost its end.
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides a vector, besides the text: two equal identities give the same vectors."""

    name: str
    #: Commit of the model's repository, or `local` for a folder.
    revision: str
    #: sha256 of the weights, in hex.
    digest: str
    precision: str
    #: Put before every text by the model's own configuration; empty for most.
    prompt: str
    #: What turns token vectors into the sentence's, for example `mean+normalize`.
    pooling: str
    dimensions: int
    #: Longest text the model reads, in tokens, special tokens included.
    max_tokens: int


class Embedder(Protocol):
    """A loaded model. Both methods block and may be called off the event loop."""

    @property
    def identity(self) -> Identity: ...

    @property
    def concurrency(self) -> int:
        """How many threads may usefully call `embed` at once."""
        ...

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch, padding included, at which it does the most work a second."""
        ...

    def tokenise(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text, in order. Any number of threads may call this."""
        ...

    def embed(self, batch: Sequence[Tokens]) -> Vectors:
        """Rows of unit length, shape (len(batch), identity.dimensions), in the batch's order.

        A row does not depend on its neighbours. Raises MemoryError when the batch is too large for the
        machine; any other error means that the batch holds something the model cannot take. A model that
        computes NaN returns it: check that rows are finite before publishing.
        """
        ...


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` of a vector (or of each row), scaled back to unit length.

    Raises InvalidField when the model has fewer dimensions, EmbeddingFailed when nothing is left to scale.
    """
    size = vectors.shape[-1]
    if not 1 <= dimensions <= size:
        raise InvalidField(f"dimensions: expected 1 to {size}, got {dimensions}")
    if dimensions == size:
        return vectors
    head = vectors[..., :dimensions]
    length = np.linalg.norm(head, axis=-1, keepdims=True)
    if not (length > 0).all():
        raise EmbeddingFailed(f"the first {dimensions} dimensions of the vector are all zero or not numbers")
    return np.asarray(head / length, dtype=np.float32)
