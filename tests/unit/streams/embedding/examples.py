"""Requests as a worker reads them, and what a stage makes of them."""

from dataclasses import dataclass
from typing import Any

from schemas.codec import Codec
from schemas.records import Embedding, Reply, Sentence
from streams.records import Headers, Outgoing

CODEC = Codec()
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
#: Of a caller who reads partition 3 of `replies` and wants nothing published.
ASKING = (
    ("reply-topic", b"replies"),
    ("reply-partition", b"3"),
    ("correlation-id", b"c-1"),
    ("results", b"reply-only"),
)


@dataclass(frozen=True)
class Request:
    """A consumed record."""

    value: bytes | None
    headers: Headers = ()
    key: bytes | None = b"key"
    topic: str = "requests"
    partition: int = 2
    offset: int = 17
    timestamp: int = 1_700_000_000_000
    timestamp_type: int = 0


def asked(*headers: tuple[str, bytes | None], key: bytes | None = b"key", **fields: Any) -> Request:
    """A sentence, s-1 unless `fields` say otherwise, with these headers."""
    sentence = Sentence(**{"id": "s-1", "text": "Hello, world.", **fields})
    return Request(CODEC.encode(sentence, "requests"), headers, key)


def reply_in(out: Outgoing) -> Reply:
    """The reply that is to be published."""
    assert out.value is not None
    return CODEC.decode(Reply, out.value)


def embedding_in(out: Outgoing) -> Embedding:
    """The embedding that is to be published."""
    assert out.value is not None
    return CODEC.decode(Embedding, out.value)
