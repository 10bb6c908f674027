"""What comes in and what goes out, as Kafka sees it: bytes with coordinates."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.errors import Reject, StreamsError

Headers = Sequence[tuple[str, bytes | None]]


class Record(Protocol):
    """A consumed record; aiokafka's `ConsumerRecord` is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch."""
        ...

    @property
    def timestamp_type(self) -> int:
        """0: set by the producer, 1: by the broker."""
        ...

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class Unreadable(NamedTuple):
    """A consumed record that no stage can be given: what could be read of it, and why it is refused."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    why: Reject


class Outgoing(NamedTuple):
    """A record to publish. Unless it names its partition, that follows from the key, as in every Kafka client."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    #: Whether it is for one caller alone: where it cannot be delivered it is dropped, so that nobody else waits.
    reply: bool = False


class TopicPartition(NamedTuple):
    """A partition's coordinates; equal to (and hashed like) the tuples aiokafka and Faust use."""

    topic: str
    partition: int


class PartitionLost(StreamsError):
    """Another worker has the input partition by now; what was done for it here is void."""
