"""The training stage: requests in, versions out; what becomes of each run is noted where people look for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from schemas.codec import Codec
from schemas.errors import InvalidField, Reject, Retry, StreamsError
from schemas.records import TrainingRequest
from streams.models.runs import Outcome, Watch
from streams.models.vectors import Stopped
from streams.records import Outgoing, Record

log = structlog.get_logger(__name__)


class Runs(Protocol):
    """Where runs are noted; no method raises because that place is away."""

    def status(self, run: str) -> str | None:
        """What is noted of a run; None where nothing is, or nobody can be asked."""

    def note(self, request: TrainingRequest, **changes: Any) -> None:
        """Notes status, progress, digest or detail of a run."""

    def add(self, request: TrainingRequest, outcome: Outcome) -> None:
        """Notes the version that a run made."""


class TrainingFailed(Reject):
    """The trainer failed on this request in a way nobody foresaw."""

    reason = "training-failed"
    stage = "train"


@dataclass(slots=True)
class TrainWork:
    """A request that is to be carried out."""

    request: TrainingRequest
    size: int = 1
    deadline: int | None = None


class TrainStage:
    """Carries out one request at a time. A request that cannot be carried out is a failed run, not a dead letter."""

    name = "train"
    concurrency = 1

    def __init__(
        self,
        codec: Codec,
        train: Callable[[TrainingRequest, Watch], Outcome],
        runs: Runs,
        going_on: Callable[[], bool],
    ) -> None:
        """`going_on` is asked at every step: False once this process leaves. It also hears that there is progress."""
        self._codec, self._train, self._runs, self._going_on = codec, train, runs, going_on

    def prepare(self, records: Sequence[Record]) -> list[TrainWork | list[Outgoing] | Reject]:
        """Decodes each request."""
        return [self._prepared(record) for record in records]

    def _prepared(self, record: Record) -> TrainWork | list[Outgoing] | Reject:
        if record.value is None:
            return InvalidField("value: expected a request")
        try:
            return TrainWork(self._codec.decode(TrainingRequest, record.value, record.headers))
        except Reject as error:
            return error

    def run(self, batch: Sequence[TrainWork]) -> list[list[Outgoing] | Reject]:
        """Trains; raises Retry where this process leaves, or the store is away: the next one goes on there."""
        for work in batch:
            self._carry_out(work.request)
        return [[] for _ in batch]

    def _carry_out(self, request: TrainingRequest) -> None:
        match self._runs.status(request.id):
            case "cancelling":
                self._runs.note(request, status="cancelled")
                return
            case "cancelled" | "succeeded" | "failed":  # the record came twice
                return
        self._runs.note(request, status="running", detail="")
        watch = Watch(
            lambda what, done, of: self._runs.note(request, progress={"step": what, "done": done, "of": of}),
            lambda: self._cancelled(request) or not self._going_on(),
        )
        try:
            outcome = self._train(request, watch)
        except Stopped:
            self._stopped(request)
        except Retry:
            raise
        except StreamsError as error:
            log.warning("training-failed", run=request.id, scorer=request.scorer, error=str(error))
            self._runs.note(request, status="failed", detail=str(error))
        else:
            log.info("trained", run=request.id, scorer=request.scorer, digest=outcome.digest)
            self._runs.add(request, outcome)
            self._runs.note(request, status="succeeded", digest=outcome.digest, progress=outcome.as_json())

    def _stopped(self, request: TrainingRequest) -> None:
        if not self._cancelled(request):
            self._runs.note(request, status="queued")
            raise Retry(f"run {request.id} waits for the next trainer")
        log.info("training-cancelled", run=request.id)
        self._runs.note(request, status="cancelled")

    def _cancelled(self, request: TrainingRequest) -> bool:
        return self._runs.status(request.id) in {"cancelling", "cancelled"}

    def failed(self, error: Exception) -> Reject:
        """Names an exception that nobody foresaw."""
        return TrainingFailed(f"the trainer raised {type(error).__name__}")
