"""Bytes to record and back.

`Codec.decode` reads what any producer wrote, with or without a registry, by Avro's rules of resolution;
whatever the bytes are, it ends with a record, a Reject, or a Retry while the registry is away.
`Codec.encode` writes our own schemas.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

from schemas import avro, framing, packing
from schemas.avro import Type, parse
from schemas.contracts import FILES, MAKERS, SINGLE_OBJECT, by_fingerprint, current
from schemas.errors import BadBytes, InvalidField, Reject, UnknownSchema, UnsafeSchema
from schemas.headers import Headers
from schemas.reading import Broken, Read
from schemas.records import Embedding, Record, Reply, Sentence
from schemas.registry import Registry, WriterSchema
from schemas.resolution import reader
from schemas.writing import template, writer

R = TypeVar("R", bound=Record)

#: Limits of a Sentence, in characters and names.
MAX_ID: Final = 512
MAX_SCORERS: Final = 64

#: How many writer schemas to keep ready at most; at one more, all are worked out anew.
_MAX_PLANS: Final = 256


class Codec:
    """Reads and writes records; safe to share between threads.

    With a registry it writes Confluent's wire format under the subject `<topic>-value`, without one Avro's
    single-object encoding. It reads both either way, as far as it can find the writer's schema.
    """

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry
        self._plans: dict[tuple[type, bytes], Read | Reject] = {}
        self._frames: dict[tuple[type, str], bytes] = {}
        self._writers = {kind: writer(current(kind).type) for kind in FILES}

    def decode(self, kind: type[R], value: bytes | None, headers: Headers = ()) -> R:
        """The record in a value.

        Raises BadBytes, UnknownSchema, UnsafeSchema or InvalidField (Reject), or RegistryUnavailable (Retry).
        """
        if not isinstance(value, bytes):
            raise BadBytes(f"value: expected bytes, it is {type(value).__name__}")
        frame, start = framing.split(value, headers)
        read = self._plans.get((kind, frame))
        if read is None:
            read = self._plan(kind, frame)
        if isinstance(read, Reject):
            raise type(read)(*read.args)
        try:
            record, end = read(value, start)
        except Broken as error:
            raise BadBytes(str(error)) from None
        if end != len(value):
            raise BadBytes(f"value: expected the record to fill it, {len(value) - end} bytes follow")
        validate(record)
        return record  # type: ignore[no-any-return]

    def encode(self, record: Record, topic: str) -> bytes:
        """The value to publish on a topic.

        Raises InvalidField for what the schema cannot hold (a number too large), or RegistryUnavailable.
        """
        kind = type(record)
        frame = self._frames.get((kind, topic))
        out = bytearray(self._frame(kind, topic) if frame is None else frame)
        self._writers[kind](record, out)
        return bytes(out)

    def template(self, kind: type, topic: str, fixed: Mapping[str, Any]) -> Callable[[Iterable[Any]], bytes]:
        """As `encode`, for records that share the values of `fixed`: no record is made, and these are encoded once.

        What it returns takes the other values, in the order of the record's fields.
        """
        of = current(kind).type
        assert isinstance(of, avro.Record)
        write = template(of, fixed)

        def encode(values: Iterable[Any]) -> bytes:
            frame = self._frames.get((kind, topic))
            out = bytearray(self._frame(kind, topic) if frame is None else frame)
            write(values, out)
            return bytes(out)

        return encode

    def announce(self, kind: type[Record], topic: str) -> None:
        """Has the registry know the schema of a topic, so that `encode` asks no more; raises RegistryUnavailable."""
        if (kind, topic) not in self._frames:
            self._frame(kind, topic)

    def _frame(self, kind: type, topic: str) -> bytes:
        contract = current(kind)
        if self._registry is None:
            frame = SINGLE_OBJECT + contract.fingerprint
        else:
            frame = framing.confluent(self._registry.id_of(f"{topic}-value", contract.text))
        self._frames[kind, topic] = frame
        return frame

    def _plan(self, kind: type, frame: bytes) -> Read | Reject:
        """How to read what this frame's schema wrote, or why not; neither ever changes, so it is kept."""
        plan: Read | Reject
        try:
            plan = reader(self._written(frame), current(kind).type, MAKERS)
        except UnsafeSchema as error:
            plan = UnsafeSchema(f"{framing.describe(frame)}: {error}")
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        self._plans[kind, frame] = plan
        return plan

    def _written(self, frame: bytes) -> Type:
        if frame[0] == framing.BY_FINGERPRINT:
            contract = by_fingerprint().get(frame[2:])
            if contract is None:
                raise UnknownSchema(f"{framing.describe(frame)}: no version of this product has written it")
            return contract.type
        if self._registry is None:
            raise UnknownSchema(f"{framing.describe(frame)}: it is in a registry and none is configured")
        if frame[0] == framing.BY_ID:
            return _parsed(self._registry.by_id(int.from_bytes(frame[1:], "big")))
        return _parsed(self._registry.by_guid(UUID(bytes=frame[1:])))


def _parsed(schema: WriterSchema) -> Type:
    if schema.language != "AVRO":
        raise UnsafeSchema(f"expected an Avro schema, the registry has one of type {schema.language[:80]}")
    if schema.references:
        raise UnsafeSchema("expected a schema that is whole, it refers to other schemas in the registry")
    return parse(schema.text)


def validate(record: Record) -> None:
    """Raises InvalidField where a field holds what no model could work on, or contradicts another field."""
    if isinstance(record, Sentence):
        _check_sentence(record)
    elif isinstance(record, Embedding):
        packing.check(record)
    elif isinstance(record, Reply) and record.embedding is not None:
        validate(record.embedding)


def _check_sentence(sentence: Sentence) -> None:
    if not 0 < len(sentence.id) <= MAX_ID:
        raise InvalidField(f"id: expected 1 to {MAX_ID} characters, it has {len(sentence.id)}")
    if not sentence.text or sentence.text.isspace():
        raise InvalidField("text: expected at least one character that is not white space")
    if sentence.dimensions is not None and sentence.dimensions < 1:
        raise InvalidField(f"dimensions: expected 1 or more, or null, it is {sentence.dimensions}")
    if len(sentence.scorers) > MAX_SCORERS:
        raise InvalidField(f"scorers: expected {MAX_SCORERS} names at most, it has {len(sentence.scorers)}")
