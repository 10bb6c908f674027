"""What becomes of a record that cannot be handled: a dead letter, a reply to whoever waits for it, or both."""

from dataclasses import dataclass

import structlog

from schemas.errors import Reject, Retry
from schemas.headers import Results
from streams.dead_letters import DeadLetters, described
from streams.embedding.replies import Replies
from streams.records import Outgoing, Record

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Tells whoever has to know of a refusal; `replies` is None where the records are no requests."""

    dead_letters: DeadLetters
    replies: Replies | None = None

    def make(self, record: Record, reason: Reject, attempts: int) -> list[Outgoing]:
        """Returns what to publish for a refused record: a dead letter, a reply, or both.

        A request whose results only its caller was to see concerns nobody else when it is refused, either.
        """
        if self.replies is None or (request := self.replies.asked(record)) is None:
            return [self.dead_letters.make(record, reason, attempts)]
        try:
            reply = self.replies.refusal(request, reason)
        except Retry as error:  # the caller cannot be told now, but the record must not be lost
            log.warning("no-reply", why=str(error), **described(record, reason))
            return [self.dead_letters.make(record, reason, attempts)]
        if request.results is Results.REPLY_ONLY:
            log.info("refused", **described(record, reason))
            return [reply]
        return [reply, self.dead_letters.make(record, reason, attempts)]
