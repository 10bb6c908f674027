"""`POST /v1/sentences`: sentences for the stream and its subscribers, with nobody waiting for the answers."""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
import structlog
from fastapi import Header, Response
from pydantic import BaseModel, ConfigDict, Field

from agents.bridge import fields
from agents.bridge.asking import check_model, unavailable
from agents.bridge.calls import Call
from agents.bridge.endpoints import COMMON, EmbedCall, admit, router_of
from agents.bridge.identity import Scope
from agents.bridge.kept import correlation_id
from agents.bridge.problems import LISTED, Kind, Problem, documented, invalid
from agents.bridge.scores import ScorerName
from agents.bridge.stores import Begun, Done, Mismatch, StoreUnavailable
from schemas import headers
from schemas.headers import Header as KafkaHeader
from schemas.records import Encoding, Overflow, Sentence
from streams.publisher import Receipt
from streams.records import Outgoing

log = structlog.get_logger(__name__)

router = router_of("Sentences")

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/idempotency")
#: What an Idempotency-Key may be.
KEY = re.compile(r"[\x21-\x7e]{1,255}")
#: Bytes of a record besides its value.
HEADROOM = 4096

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=4096)]], Field(max_length=64)
]


class SentenceItem(fields.Question):
    """One sentence."""

    text: fields.Text
    metadata: Metadata = Field(default_factory=dict, description="Carried on to every result.")
    scorers: list[ScorerName] = Field(
        default_factory=list, max_length=64, description="Names of scorers; none: whatever the stream does by itself."
    )
    dimensions: fields.Dimensions = None
    overflow: fields.OverflowName = "truncate"
    encoding: fields.EncodingName = "float32"


class SentencesRequest(fields.Question):
    """What to send into the stream."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sentences": [{"text": "A sentence.", "metadata": {"document": "17"}}]}]}
    )

    sentences: Annotated[list[SentenceItem], Field(min_length=1, max_length=fields.MAX_ITEMS)]
    model: fields.ModelName = None


class SentItem(BaseModel):
    """Where one sentence went."""

    object: Literal["sentence"]
    index: int = Field(description="Place of the sentence in the request.")
    id: str = Field(description="Its id, here and on every result.")
    topic: str
    partition: int
    offset: int
    results: str = Field(description="Path of its results.")


class SentencesResponse(BaseModel):
    """What was sent, in the order of the request."""

    object: Literal["list"]
    data: list[SentItem]


IdempotencyKey = Annotated[
    str | None,
    Header(
        description="Makes a repeat harmless: for a day the same key and body get the same answer, from any replica, "
        "and nothing is sent twice. 1 to 255 visible ASCII characters.",
    ),
]


@router.post(
    "/v1/sentences",
    status_code=202,
    response_model=SentencesResponse,
    responses=documented(*COMMON, Kind.NOT_FOUND, Kind.REFUSED, Kind.CONFLICT, Kind.KEY_REUSED, Kind.UNAVAILABLE),
)
async def send_sentences(
    question: SentencesRequest, call: EmbedCall, idempotency_key: IdempotencyKey = None
) -> Response:
    """Send sentences into the bulk lane: results are published, and kept for a while under the ids returned here."""
    texts = [sentence.text for sentence in question.sentences]
    await admit(call, texts, lambda index: f"/sentences/{index}/text")
    _check(call, question)
    call.note.fields.update(sentences=len(texts))
    if idempotency_key is None:
        return _accepted(await _send(call, question, [str(uuid.uuid4()) for _ in texts]))
    if not KEY.fullmatch(idempotency_key):
        raise invalid([{"field": "header:idempotency-key", "expected": "1 to 255 visible ASCII characters"}])
    return await _once(call, question, idempotency_key)


def _check(call: Call, question: SentencesRequest) -> None:
    if call.bridge.replies.served is not None:  # the stream takes sentences also while no worker is there
        check_model(call, question.model, call.bridge.replies.served)
    if Scope.SCORE not in call.caller.scopes and any(sentence.scorers for sentence in question.sentences):
        raise Problem(Kind.FORBIDDEN, f"scorers need the scope {Scope.SCORE}")


async def _once(call: Call, question: SentencesRequest, key: str) -> Response:
    """Sends what nobody sent under this key, or gives the answer of who did."""
    idempotency, caller = call.bridge.stores.idempotency, call.caller.name
    body = orjson.dumps(question.model_dump(), option=orjson.OPT_SORT_KEYS)
    began = await idempotency.begin(caller, key, hashlib.sha256(body).hexdigest())
    match began:
        case Done(answer):
            return _accepted(answer)
        case Mismatch():
            raise Problem(Kind.KEY_REUSED, "this Idempotency-Key was used with another body")
        case Begun():
            pass
        case _:
            detail = "the first request with this Idempotency-Key is not answered yet"
            raise Problem(Kind.CONFLICT, detail, headers={"Retry-After": "1"})
    ids = [str(uuid.uuid5(_NAMESPACE, f"{caller}\0{key}\0{n}")) for n in range(len(question.sentences))]
    try:
        answer = await _send(call, question, ids)
    except BaseException:
        await idempotency.abandon(caller, key)  # a repeat sends the same ids: for subscribers an upsert
        raise
    try:
        await idempotency.finish(caller, key, answer)
    except StoreUnavailable as error:
        log.warning("answer-not-kept", error=str(error), meaning="a repeat would send the same ids again")
    return _accepted(answer)


async def _send(call: Call, question: SentencesRequest, ids: Sequence[str]) -> bytes:
    """Returns the answer once every sentence has its receipt. Raises Problem."""
    bridge = call.bridge
    records = [_record(call, question.model, each, id) for each, id in zip(question.sentences, ids, strict=True)]
    too_large = [n for n, each in enumerate(records) if len(each.value or b"") > _most(call)]
    if too_large:
        raise _too_large(too_large)
    await bridge.stores.results.expect(call.caller.name, *ids)
    try:
        async with asyncio.timeout(call.left):
            receipts, refused = await bridge.publisher.post(records)
    except TimeoutError:
        raise unavailable("no broker took the sentences in time") from None
    if refused:
        raise _too_large(sorted(refused))
    return _answer(bridge.settings.topic_requests, ids, [receipts.get(n) for n in range(len(ids))])


def _record(call: Call, model: str | None, item: SentenceItem, sentence_id: str) -> Outgoing:
    sentence = Sentence(
        id=sentence_id,
        text=item.text,
        model=model,
        dimensions=item.dimensions,
        scorers=tuple(item.scorers),
        overflow=Overflow(item.overflow),
        metadata=item.metadata,
        encoding=Encoding(item.encoding),
    )
    settings = call.bridge.settings
    named: list[KafkaHeader] = [
        (headers.CORRELATION_ID, correlation_id(call.caller.name, sentence_id)),
        (headers.REPLY_TOPIC, settings.topic_kept_replies.encode()),
        (headers.TRACEPARENT, call.trace),
    ]
    value = call.bridge.codec.encode(sentence, settings.topic_requests)
    return Outgoing(settings.topic_requests, None, value, named)


def _most(call: Call) -> int:
    return call.bridge.settings.max_request_bytes - HEADROOM


def _too_large(indexes: Sequence[int]) -> Problem:
    errors = [
        {"field": f"/sentences/{n}", "expected": "less text and metadata", "reason": "record-too-large"}
        for n in indexes[:LISTED]
    ]
    return Problem(Kind.REFUSED, f"{len(indexes)} sentences make records larger than the broker takes", errors=errors)


def _answer(topic: str, ids: Sequence[str], receipts: Sequence[Receipt | None]) -> bytes:
    data: list[dict[str, Any]] = []
    for index, (sentence_id, receipt) in enumerate(zip(ids, receipts, strict=True)):
        partition, offset = receipt or (-1, -1)
        place = {"topic": topic, "partition": partition, "offset": offset}
        path = f"/v1/sentences/{sentence_id}/results"
        data.append({"object": "sentence", "index": index, "id": sentence_id, **place, "results": path})
    return orjson.dumps({"object": "list", "data": data})


def _accepted(answer: bytes) -> Response:
    return Response(answer, 202, media_type="application/json")
