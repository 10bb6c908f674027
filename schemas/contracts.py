"""The .avsc files: which one describes which record, and how a value without a registry names its schema."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.avro import Type, parse
from schemas.records import (
    Alert,
    Embedding,
    Encoding,
    HeadKind,
    ModelCommand,
    ModelKind,
    Overflow,
    Reply,
    ReplyError,
    Score,
    ScoreStatus,
    Sentence,
    Served,
    Severity,
    Source,
    Target,
    Timings,
    TrainingRequest,
)

#: The file of each record.
FILES: Final[Mapping[type, str]] = {
    Sentence: "sentence.avsc",
    Embedding: "embedding.avsc",
    Score: "score.avsc",
    Reply: "reply.avsc",
    Alert: "alert.avsc",
    ModelCommand: "model_command.avsc",
    TrainingRequest: "training_request.avsc",
}

#: What makes each named type of the contracts.
MAKERS: Final[Mapping[str, Callable[..., Any]]] = {
    made.__name__: made
    for made in (
        *FILES,
        Source,
        Overflow,
        Encoding,
        ScoreStatus,
        ReplyError,
        Served,
        Timings,
        Severity,
        ModelKind,
        Target,
        HeadKind,
    )
}

#: The two bytes that open a value in Avro's single-object encoding; eight bytes of fingerprint follow.
SINGLE_OBJECT: Final = b"\xc3\x01"


@dataclass(frozen=True, slots=True)
class Contract:
    """One version of one record's schema."""

    #: JSON, with its documentation.
    text: str
    type: Type
    #: How single-object encoding names it: the CRC-64-AVRO of its canonical form, little-endian.
    fingerprint: bytes


@cache
def current(kind: type) -> Contract:
    """The schema that this version writes."""
    return _contract((files("schemas") / FILES[kind]).read_text("utf-8"))


@cache
def by_fingerprint() -> Mapping[bytes, Contract]:
    """Every schema that any version of this product has written, of all records."""
    released = (files("schemas") / "released").iterdir()
    texts = [file.read_text("utf-8") for version in released for file in version.iterdir()]
    every = [*map(_contract, texts), *(current(kind) for kind in FILES)]
    return {contract.fingerprint: contract for contract in every}


def fingerprint_of(text: str) -> bytes:
    """The CRC-64-AVRO of a schema's canonical form, little-endian."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(json.loads(text)), "CRC-64-AVRO"))


def _contract(text: str) -> Contract:
    return Contract(json.dumps(json.loads(text)), parse(text), fingerprint_of(text))
