"""The records that travel on the topics: frozen, slotted, fields in the order of their Avro contracts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Overflow(StrEnum):
    """What to do with a text that has more tokens than the model reads."""

    TRUNCATE = "truncate"
    REJECT = "reject"
    #: Embed it in windows, see `streams.embedding.chunks`.
    CHUNK = "chunk"


class Encoding(StrEnum):
    """How a vector is written, see `schemas.packing`."""

    FLOAT32 = "float32"
    INT8 = "int8"
    BINARY = "binary"


class ScoreStatus(StrEnum):
    """Whether the scorer itself answered, or a default answer stands in."""

    OK = "ok"
    FALLBACK = "fallback"


class Severity(StrEnum):
    """How soon a person should look at an alert."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class ModelKind(StrEnum):
    """What an alias of sentence.models stands for."""

    EMBEDDER = "embedder"
    SCORER = "scorer"


class HeadKind(StrEnum):
    """What is trained on vectors."""

    LOGISTIC = "logistic"
    RIDGE = "ridge"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence to embed and, where scorers are named, to score."""

    id: str
    text: str
    #: Alias of the model; None means the worker's default.
    model: str | None = None
    #: Leading dimensions to keep; None keeps all.
    dimensions: int | None = None
    scorers: tuple[str, ...] = ()
    overflow: Overflow = Overflow.TRUNCATE
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: What scorers of a query and a text judge the text against.
    query: str | None = None
    #: How to write the vector.
    encoding: Encoding = Encoding.FLOAT32


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sentence was first read: the original record's coordinates, also after a replay or redrive."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since 1970 UTC.
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """The vector of one sentence, with all that is needed to make it again.

    Two embeddings are equal when every field is, the vector value by value.
    """

    id: str
    sentence_id: str
    scorers: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Text and query are None where a setting withholds them.
    text: str | None = None
    query: str | None = None
    model: str
    revision: str
    weights_digest: str
    dimensions: int
    token_count: int
    truncated: bool
    precision: str
    cached: bool = False
    source: Source
    #: Milliseconds since 1970 UTC.
    embedded_at: int
    encoding: Encoding = Encoding.FLOAT32
    #: The vector in any other encoding.
    packed: bytes = b""
    #: What each byte of an int8 vector is to be multiplied by; None for the others.
    scale: float | None = None
    #: Which window of the text it is of; None: the whole text, in `chunks` windows.
    chunk: int | None = None
    chunks: int = 1
    #: float32, shape (dimensions,); shape (0,) where the encoding is another: `schemas.packing.values` reads all.
    vector: NDArray[np.float32]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Embedding):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in _EMBEDDING_SCALARS)
        return same and np.array_equal(self.vector, other.vector, equal_nan=True)

    def __hash__(self) -> int:
        return hash(self.id)


_EMBEDDING_SCALARS = tuple(each.name for each in fields(Embedding) if each.name != "vector")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What one scorer says about one sentence."""

    id: str
    sentence_id: str
    scorer: str
    scorer_version: str
    #: The label with the highest score.
    label: str
    score: float
    #: Every label with its score.
    labels: Mapping[str, float] = field(default_factory=dict, hash=False)
    status: ScoreStatus = ScoreStatus.OK
    #: Why the answer is a fallback; None where it is not.
    reason: str | None = None
    model: str
    revision: str
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    source: Source
    #: Milliseconds since 1970 UTC.
    scored_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyError:
    """Why a request is refused: reason and stage are those of a Reject, the message never quotes the text."""

    reason: str
    stage: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What answers: the model and the scorers of a worker."""

    model: str
    revision: str
    weights_digest: str
    precision: str
    #: Values of a full vector.
    dimensions: int
    #: Most tokens the model reads of a text, special tokens included.
    max_tokens: int
    #: Names everything besides the text that decides a vector, see `streams.embedding.identity`.
    identity: str
    scorers: tuple[str, ...] = ()
    #: Those that a sentence with a query may ask for.
    rerankers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a request's time went, in microseconds; 0 for a step it did not take."""

    #: From its tokens to the model.
    queue: int = 0
    #: Tokens of it, and of those it came with.
    tokenise: int = 0
    #: The model's run over its batch.
    embed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to one request that named a topic for replies."""

    #: The request's own, byte for byte; empty where it had none.
    correlation_id: bytes = b""
    #: None where the request is refused.
    embedding: Embedding | None = None
    #: Of the scorers that the sentence named, in that order.
    scores: tuple[Score, ...] = ()
    #: None where the request is not refused.
    error: ReplyError | None = None
    served: Served
    timings: Timings = Timings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should look at, or that it is over."""

    id: str
    #: Short slug of what happened.
    kind: str
    severity: Severity = Severity.WARNING
    #: What it is about: a consumer group, a topic's partition.
    subject: str
    #: The numbers behind it.
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)
    message: str = ""
    #: When it began, and when it was noticed: milliseconds since 1970 UTC.
    since: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One model or scorer, of one version."""

    #: What results call it.
    name: str
    #: Of its repository; None: the one that the name stands for.
    revision: str | None = None
    #: sha256 of the weights that it must have, in hex; None: not pinned.
    digest: str | None = None
    #: None: as the worker's settings say.
    precision: str | None = None
    #: A model's name or folder, or the digest of an artifact.
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCommand:
    """All that is decided of one alias; see `streams.models.routing` for how one leads to the next."""

    id: str
    kind: ModelKind
    alias: str
    #: None: what the worker's own settings say.
    active: Target | None = None
    #: What a rollback goes back to.
    previous: Target | None = None
    #: Does the same work for `shadow_share` of the sentences (0 to 1), and publishes nothing.
    shadow: Target | None = None
    shadow_share: float = 0.0
    #: Answers `share` of the sentences (0 to 1).
    trial: Target | None = None
    share: float = 0.0
    #: Taken out of service by a person.
    disabled: bool = False
    #: Taken out of service by the kill switch.
    quarantined: bool = False
    reason: str = ""
    by: str = ""
    #: Milliseconds since 1970 UTC.
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """One scorer to train; its id names the run."""

    id: str
    scorer: str
    #: An object's URL, or `topic:NAME`.
    source: str
    #: Of a topic's range, as `streams.ranges.Bound` reads them.
    start: str = "beginning"
    end: str = "end"
    #: Columns; of a topic `label` is the metadata that has it.
    text: str = "text"
    label: str = "label"
    head: HeadKind = HeadKind.LOGISTIC
    #: None: what suits vectors of unit length.
    regularisation: float | None = None
    folds: int = 5
    seed: int = 0
    by: str = ""
    #: Milliseconds since 1970 UTC.
    at: int


#: Any record this product reads or writes.
Record = Sentence | Embedding | Score | Reply | Alert | ModelCommand | TrainingRequest
