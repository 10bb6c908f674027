"""Replies: the answer to a request that named a topic for it, on exactly that topic and partition.

Whoever asked is told once, with the vector and the scores or with the reason of a refusal. Only topics that the
operator allows are answered on: else a request could have the worker write wherever it may.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from schemas.codec import Codec
from schemas.dead_letters import MAX_MESSAGE, cut
from schemas.errors import InvalidField, Reject
from schemas.headers import RequestHeaders, parse_request, reply_headers
from schemas.records import Embedding, Reply, ReplyError, Score, Sentence, Timings
from streams.embedding.model import Model, Models
from streams.records import Outgoing, Record
from streams.scoring.scorer import Scorer, require_model, require_query
from streams.scoring.verdicts import TRUSTING, Judge, chosen

#: Digest of a model's weights, id of a sentence, the model's own scorers -> those that answer.
ScorersOf = Callable[[str, str, Mapping[str, Scorer]], Mapping[str, Scorer]]

#: Of a request that took none of the steps.
_NONE = Timings()


class Replies:
    """Makes the replies of one worker."""

    def __init__(
        self,
        codec: Codec,
        topics: Collection[str],
        models: Models,
        judge: Judge = TRUSTING,
        scorers_of: ScorersOf = lambda _model, _sentence, own: own,
    ) -> None:
        """Requests may name one of `topics` for their reply; a refusal says that the default of `models` is served.

        `judge` judges the scores of replies; `scorers_of` says which scorers make them.
        """
        self.judge = judge
        self._codec = codec
        self._topics = frozenset(topics)
        self._models = models
        self._scorers_of = scorers_of

    def admit(self, request: RequestHeaders) -> None:
        """Raises InvalidField where a request must not have a reply on the topic it names.

        Raises RegistryUnavailable where no reply could be written now; later ones need the registry no more.
        """
        if request.reply_topic is None:
            return
        if request.reply_topic not in self._topics:
            raise InvalidField(f"header reply-topic: {request.reply_topic} is not a topic that replies may go to")
        self._codec.announce(Reply, request.reply_topic)

    def asked(self, record: Record) -> RequestHeaders | None:
        """What a record asks for, where it has an address that replies may go to."""
        try:
            request = parse_request(record.headers)
        except InvalidField:
            return None
        return request if request.reply_topic in self._topics else None

    def scorers(self, model: Model, sentence: Sentence) -> Sequence[Scorer]:
        """The scorers that a request names. Raises UnknownScorer, or ScoringFailed for one that cannot judge it."""
        found = chosen(self._scorers_of(model.identity.digest, sentence.id, model.scorers), sentence.scorers)
        for scorer in found:
            require_model(scorer, model.identity.digest)
            require_query(scorer, sentence.query)
        return found

    def answer(
        self,
        request: RequestHeaders,
        embedding: Embedding | None,
        scores: Sequence[Score] = (),
        timings: Timings = _NONE,
        model: Model | None = None,
    ) -> Outgoing:
        """The reply to a request that was handled, by `model`; a deletion has no embedding, and needs no model."""
        return self._reply(request, model, embedding=embedding, scores=tuple(scores), timings=timings)

    def refusal(self, request: RequestHeaders, reason: Reject) -> Outgoing:
        """The reply to a request that is refused."""
        message = cut(str(reason), MAX_MESSAGE).decode()
        return self._reply(request, None, error=ReplyError(reason=reason.reason, stage=reason.stage, message=message))

    def _reply(self, request: RequestHeaders, model: Model | None, **content: object) -> Outgoing:
        topic, model = request.reply_topic or "", model or self._models.default
        served = model.served_with(self._scorers_of(model.identity.digest, "", model.scorers))
        reply = Reply(correlation_id=request.correlation_id or b"", served=served, **content)  # type: ignore[arg-type]
        value = self._codec.encode(reply, topic)
        return Outgoing(
            topic, request.correlation_id, value, reply_headers(request), request.reply_partition, reply=True
        )
