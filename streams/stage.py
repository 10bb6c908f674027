"""What the pipeline does with a record: the two steps an embedder or a scorer has to offer."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from schemas.errors import Reject
from streams.records import Outgoing, Record


class Work(Protocol):
    """A prepared record, as the batcher and the stage see it."""

    @property
    def size(self) -> int:
        """Its cost in a batch, in tokens; at least 1."""
        ...

    @property
    def deadline(self) -> int | None:
        """Epoch milliseconds after which nobody wants the answer any more."""
        ...


W = TypeVar("W", bound=Work)


class Stage(Protocol[W]):
    """A kind of work on records; called off the event loop, `run` from `concurrency` threads at once."""

    name: str
    concurrency: int

    def prepare(self, records: Sequence[Record]) -> list[W | list[Outgoing] | Reject]:
        """Decodes and validates: for each record its work, what to publish without any, or why it is refused.

        Raises Retry where the world is not ready; the same records come again.
        """
        ...

    def run(self, batch: Sequence[W]) -> list[list[Outgoing] | Reject]:
        """Does the work of one micro-batch: for each its results, or why it is refused.

        Any other exception fails the whole batch; the pipeline then looks for the record that causes it.
        """
        ...

    def failed(self, error: Exception) -> Reject:
        """Names an exception of `run` on a batch of one."""
        ...
