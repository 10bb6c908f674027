"""The two kinds of failure a record can meet.

`Reject`: this record can never work, so it goes to the dead-letter topic at once.
`Retry`: the world is not ready, so the record waits; an outage never turns a topic into dead letters.
"""

from typing import ClassVar


class StreamsError(Exception):
    """Base of every error this product raises on purpose."""


class Reject(StreamsError):
    """This record can never be handled; it belongs in the dead-letter topic."""

    #: Short slug: the metrics label and what `dead-letters list --reason` filters by.
    reason: ClassVar[str] = "rejected"
    #: Where on the record's path it failed: decode, validate, embed, score or publish.
    stage: ClassVar[str] = "validate"


class Retry(StreamsError):
    """The world is not ready (broker, registry, store, memory); the same record may work later."""


class BadBytes(Reject):
    """The value is not a record of the expected kind."""

    reason = "bad-bytes"
    stage = "decode"


class UnreadableBatch(Reject):
    """The records of a whole batch cannot be got out: it unpacks to too much, or to nonsense."""

    reason = "unreadable-batch"
    stage = "decode"


class UnknownSchema(Reject):
    """The value names a writer schema that nobody here knows."""

    reason = "unknown-schema"
    stage = "decode"


class UnsafeSchema(Reject):
    """The writer schema is known but not safe or not compatible with ours."""

    reason = "unsafe-schema"
    stage = "decode"


class InvalidField(Reject):
    """A field holds a value that no model could work on; the message names it and what was expected."""

    reason = "invalid-field"


class TextTooLong(Reject):
    """The text has more tokens than the model reads and the record asked to be rejected then."""

    reason = "text-too-long"


class UnknownModel(Reject):
    """The record asks for a model that this worker does not serve."""

    reason = "unknown-model"


class UnknownScorer(Reject):
    """The record asks for a scorer that is not configured."""

    reason = "unknown-scorer"
    stage = "score"


class Expired(Reject):
    """The record's deadline passed before it was embedded."""

    reason = "expired"


class EmbeddingFailed(Reject):
    """The model failed on this one record, alone."""

    reason = "embedding-failed"
    stage = "embed"


class ScoringFailed(Reject):
    """The scorer failed on this one record, alone."""

    reason = "scoring-failed"
    stage = "score"


class Killer(Reject):
    """Processes died or hung over this record, even when it was tried alone."""

    reason = "killer"
    stage = "embed"


class ResultTooLarge(Reject):
    """The broker refuses this record's result because of its size."""

    reason = "result-too-large"
    stage = "publish"


class NoReplyPartition(Reject):
    """The topic or partition that a request names for its reply does not exist; the reply is dropped."""

    reason = "no-reply-partition"
    stage = "publish"


class ModelLoading(Retry):
    """The model that the record asks for is known and not loaded yet."""


class RegistryUnavailable(Retry):
    """The schema registry did not answer; its records wait until it does."""
