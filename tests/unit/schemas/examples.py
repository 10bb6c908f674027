"""Records to test with, hypothesis strategies for them, and values written by a library that is not ours."""

import io
import json
from dataclasses import fields, is_dataclass
from typing import Any

import fastavro
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from schemas.codec import Codec
from schemas.contracts import FILES, current
from schemas.framing import confluent
from schemas.packing import pack
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
from schemas.registry import WriterSchema
from schemas.testing import FakeRegistry

SOURCE = Source("sentence.requests", 3, 17, 1_700_000_000_000)
SENTENCE = Sentence(
    "s-1", "Ein Satz.", "small", 128, ("topic", "mood"), Overflow.REJECT, {"lang": "de", "page": "7"}, "Was?"
)
EMBEDDING = Embedding(
    id="e-1",
    sentence_id="s-1",
    scorers=("topic",),
    metadata={"lang": "de"},
    text="Ein Satz.",
    query="Was?",
    model="small",
    revision="1110a243",
    weights_digest="53aa5117",
    dimensions=3,
    token_count=5,
    truncated=False,
    precision="float32",
    cached=True,
    source=SOURCE,
    embedded_at=1_700_000_000_123,
    vector=np.array([0.5, -0.25, 0.125], np.float32),
)
SCORE = Score(
    id="c-1",
    sentence_id="s-1",
    scorer="topic",
    scorer_version="1",
    label="sea",
    score=0.75,
    labels={"sea": 0.75, "land": 0.25},
    status=ScoreStatus.FALLBACK,
    reason="timeout",
    model="small",
    revision="1110a243",
    metadata={"lang": "de"},
    source=SOURCE,
    scored_at=1_700_000_000_456,
)
SERVED = Served(
    model="small",
    revision="1110a243",
    weights_digest="53aa5117",
    precision="float32",
    dimensions=3,
    max_tokens=256,
    identity="1f2e",
    scorers=("topic", "mood"),
    rerankers=("rerank",),
)
REPLY = Reply(
    correlation_id=b"\x00\xffc-1",
    embedding=EMBEDDING,
    scores=(SCORE, SCORE),
    served=SERVED,
    timings=Timings(queue=1_200, tokenise=300, embed=4_500),
)
REFUSED = Reply(
    correlation_id=b"c-2",
    error=ReplyError(reason="expired", stage="validate", message="deadline: expected one that has not passed"),
    served=SERVED,
)
ALERT = Alert(
    id="a-1",
    kind="dead-letter-limit",
    severity=Severity.CRITICAL,
    subject="group",
    figures={"limit": 100.0},
    message="Partitions wait.",
    since=1_700_000_000_000,
    at=1_700_000_001_000,
)
COMMAND = ModelCommand(
    id="m-1",
    kind=ModelKind.SCORER,
    alias="topic",
    active=Target(name="topic", revision="2", digest="53aa5117", precision="float32", source="9f86d081"),
    previous=Target(name="topic", source="/models/topic"),
    trial=Target(name="topic", source="60303ae2"),
    share=0.25,
    disabled=True,
    reason="Labels of the new season.",
    by="anna",
    at=1_700_000_000_789,
)
TRAINING = TrainingRequest(
    id="run-1",
    scorer="mood",
    source="s3://labels/mood.csv",
    start="17",
    end="2025-01-31",
    text="sentence",
    label="mood",
    head=HeadKind.RIDGE,
    regularisation=0.5,
    folds=3,
    seed=7,
    by="anna",
    at=1_700_000_000_890,
)
RECORDS = (SENTENCE, EMBEDDING, SCORE, REPLY, ALERT, COMMAND, TRAINING)

_text = st.text(st.characters(codec="utf-8"), max_size=40)
_name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_names = st.lists(_name, max_size=4).map(tuple)
_notes = st.dictionaries(_name, _text, max_size=4)
_int = st.integers(-(2**31), 2**31 - 1)
_count = st.integers(0, 2**31 - 1)
_long = st.integers(-(2**63), 2**63 - 1)
_number = st.floats(allow_nan=False)

sources = st.builds(Source, _text, _int, _long, _long)
sentences = st.builds(
    Sentence,
    id=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    text=_text.filter(lambda text: text and not text.isspace()),
    model=st.none() | _text,
    dimensions=st.none() | st.integers(1, 2**31 - 1),
    scorers=_names,
    overflow=st.sampled_from(Overflow),
    metadata=_notes,
    query=st.none() | _text,
    encoding=st.sampled_from(Encoding),
)
vectors = arrays.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32))
finite = arrays.arrays(np.float32, st.integers(1, 70), elements=st.floats(-1, 1, width=32))


@st.composite
def embeddings(draw: st.DrawFn) -> Embedding:
    """Any embedding whose vector has as many values as it says; the values may be NaN or infinite."""
    encoding = draw(st.sampled_from(Encoding))
    drawn = draw(vectors if encoding is Encoding.FLOAT32 else finite)
    vector, packed, scale = pack(drawn, encoding)
    return Embedding(
        id=draw(_text),
        sentence_id=draw(_text),
        scorers=draw(_names),
        metadata=draw(_notes),
        text=draw(st.none() | _text),
        query=draw(st.none() | _text),
        model=draw(_text),
        revision=draw(_text),
        weights_digest=draw(_text),
        dimensions=len(drawn),
        token_count=draw(_count),
        truncated=draw(st.booleans()),
        precision=draw(_text),
        cached=draw(st.booleans()),
        source=draw(sources),
        embedded_at=draw(_long),
        encoding=encoding,
        packed=packed,
        scale=scale,
        chunk=draw(st.none() | _count),
        chunks=draw(_count),
        vector=vector,
    )


scores = st.builds(
    Score,
    id=_text,
    sentence_id=_text,
    scorer=_text,
    scorer_version=_text,
    label=_text,
    score=_number,
    labels=st.dictionaries(_name, _number, max_size=4),
    status=st.sampled_from(ScoreStatus),
    reason=st.none() | _text,
    model=_text,
    revision=_text,
    metadata=_notes,
    source=sources,
    scored_at=_long,
)
refusals = st.builds(ReplyError, reason=_text, stage=_text, message=_text)
served = st.builds(
    Served,
    model=_text,
    revision=_text,
    weights_digest=_text,
    precision=_text,
    dimensions=_int,
    max_tokens=_int,
    identity=_text,
    scorers=_names,
    rerankers=_names,
)
replies = st.builds(
    Reply,
    correlation_id=st.binary(max_size=40),
    embedding=st.none() | embeddings(),
    scores=st.lists(scores, max_size=3).map(tuple),
    error=st.none() | refusals,
    served=served,
    timings=st.builds(Timings, queue=_long, tokenise=_long, embed=_long),
)
alerts = st.builds(
    Alert,
    id=_text,
    kind=_text,
    severity=st.sampled_from(Severity),
    subject=_text,
    figures=st.dictionaries(_name, _number, max_size=4),
    message=_text,
    since=_long,
    at=_long,
)
targets = st.builds(
    Target, name=_text, revision=st.none() | _text, digest=st.none() | _text, precision=st.none() | _text, source=_text
)
commands = st.builds(
    ModelCommand,
    id=_text,
    kind=st.sampled_from(ModelKind),
    alias=_text,
    active=st.none() | targets,
    previous=st.none() | targets,
    shadow=st.none() | targets,
    shadow_share=_number,
    trial=st.none() | targets,
    share=_number,
    disabled=st.booleans(),
    quarantined=st.booleans(),
    reason=_text,
    by=_text,
    at=_long,
)
trainings = st.builds(
    TrainingRequest,
    id=_text,
    scorer=_text,
    source=_text,
    start=_text,
    end=_text,
    text=_text,
    label=_text,
    head=st.sampled_from(HeadKind),
    regularisation=st.none() | _number,
    folds=st.integers(-(2**31), 2**31 - 1),
    seed=_long,
    by=_text,
    at=_long,
)
records = sentences | embeddings() | scores | replies | alerts | commands | trainings


def codecs() -> tuple[Codec, Codec]:
    """A codec without a registry and one with."""
    return Codec(), Codec(FakeRegistry())


def schema_of(kind: type) -> dict[str, Any]:
    """Our schema of a record as JSON, to be changed at will."""
    source: dict[str, Any] = json.loads(current(kind).text)
    return source


def field_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """One field of a record's schema."""
    return next(field for field in schema["fields"] if field["name"] == name)


def with_field(kind: type, name: str, type_: Any) -> dict[str, Any]:
    """Our schema with another type for one field."""
    schema = schema_of(kind)
    field_of(schema, name)["type"] = type_
    field_of(schema, name).pop("default", None)
    return schema


def without_field(kind: type, name: str) -> dict[str, Any]:
    """Our schema less one field."""
    schema = schema_of(kind)
    schema["fields"].remove(field_of(schema, name))
    return schema


def bare(schema: Any, datum: Any) -> bytes:
    """A datum as bare Avro, written by fastavro."""
    out = io.BytesIO()
    # fastavro keeps named types between calls unless the schema is parsed apart.
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas={}), datum)
    return out.getvalue()


def registered(schema: Any, data: bytes, language: str = "AVRO") -> tuple[Codec, bytes]:
    """A codec whose registry has this schema, and a value that says the schema wrote these bytes."""
    registry = FakeRegistry()
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return Codec(registry), confluent(registry.add(WriterSchema(text, language))) + data


def datum_of(record: Any) -> Any:
    """A record, or a value of one, as fastavro wants it."""
    match record:
        case tuple():
            return [datum_of(each) for each in record]
        case np.ndarray():
            return record.tolist()
        case _ if is_dataclass(record):
            return {field.name: datum_of(getattr(record, field.name)) for field in fields(record)}
        case _:
            return record


assert {type(record) for record in RECORDS} == set(FILES)
