"""What a scorer is: something that gives each sentence a label and says how sure it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from schemas.errors import ScoringFailed
from streams.scoring.drift import Reference

#: `pair`: the query that a text is asked about, and the text.
Needs = Literal["vector", "text", "pair"]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One sentence's score."""

    #: The winning label.
    label: str
    #: Its value in `labels`.
    score: float
    #: Every label's value; what it means (cosine, probability) is the scorer's to say.
    labels: Mapping[str, float]


class Scorer(Protocol):
    """Scores a batch at a time. Blocking; any number of threads may call it."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes whenever the same input could score differently."""
        ...

    @property
    def needs(self) -> Needs:
        """Which field of an embedding it reads."""
        ...

    @property
    def model(self) -> str | None:
        """Digest of the weights whose vectors it understands; None where it reads no vectors."""
        ...

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value that a label can have; infinite where there is none."""
        ...

    @property
    def reference(self) -> Reference | None:
        """What it was made with, so that drift shows; None: what it sees first in each process."""
        ...

    def score(self, inputs: Sequence[Any]) -> list[Verdict]:
        """A verdict for each input, in order, of the same labels.

        `inputs` is an array of unit vectors, shape (n, d), where the scorer needs vectors, else n texts or pairs.
        Raises ScoringFailed when one of them cannot be scored; the others may work without it.
        """
        ...


def require_model(scorer: Scorer, weights_digest: str) -> None:
    """Raise ScoringFailed unless the scorer understands vectors of the model with these weights."""
    if scorer.model is not None and scorer.model != weights_digest:
        raise ScoringFailed(
            f"scorer {scorer.name} understands vectors of the model with weights {scorer.model[:12]}, "
            f"this one is of {weights_digest[:12]}"
        )


def require_query(scorer: Scorer, query: str | None) -> None:
    """Raise ScoringFailed where the scorer judges texts against a query and there is none."""
    if scorer.needs == "pair" and query is None:
        raise ScoringFailed(f"query: scorer {scorer.name} judges texts against a query, and there is none")
