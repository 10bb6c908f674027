"""`sentence-streams batch`: a file of sentences through the replay lane, their vectors as a file."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agents import transfers
from agents.bridge.batch_jobs import Job, Progress, Runner
from agents.bridge.batch_lines import form_of
from agents.bridge.metrics import BridgeMetrics
from agents.bridge.replies import Replies
from agents.clients import broker, codec, connection
from agents.console import CONSOLE, plural, print_json, remark
from schemas.errors import StreamsError
from streams.models.files import FileStore
from streams.publisher import KafkaPublisher
from streams.settings import Settings

#: Bytes that are copied at once.
PIECE = 1024 * 1024


class FileTooLarge(StreamsError):
    """The file is larger than STREAMS_MAX_FILE_BYTES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to work through, and where the results go."""

    source: Path
    output: Path
    errors: Path


def run(settings: Settings, request: Request, *, as_json: bool) -> int:
    """Works through a file; returns 0, 3 where lines failed, 130 where it was interrupted.

    The same command goes on where this one ended. Raises UnusableFile, FileTooLarge, StoreUnavailable,
    BrokerUnreachable.
    """
    broker(settings)
    files = FileStore(settings.artifacts)
    job = _job(settings, request.source)
    if request.source.stat().st_size > settings.max_file_bytes:
        raise FileTooLarge(f"{request.source}: expected at most {settings.max_file_bytes} bytes")
    with request.source.open("rb") as stream:
        files.put(job.source, _pieces(stream))
    progress, stopped = transfers.interruptible(lambda stop: _run(settings, files, job, stop))
    if stopped:
        remark("interrupted: the same command goes on where this one ended")
        return 130
    for name, place in ((job.output, request.output), (job.errors, request.errors if progress.failed else None)):
        if place is not None:
            with files.open(name) as found, place.open("wb") as stream:
                stream.writelines(_pieces(found))
    files.delete(job.source, job.output, job.errors, *files.names(f"batches/{job.id}/"))
    _tell(request, progress, as_json=as_json)
    return 3 if progress.failed else 0


def _job(settings: Settings, source: Path) -> Job:
    with source.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    batch_id = f"batch-shell-{found}"  # the same content goes on where it ended, whatever it is called
    named = {name: f"files/{batch_id}-{name}" for name in ("source", "output", "errors")}
    return Job(id=batch_id, form=form_of(source.name), most=settings.max_batch_lines, **named)


async def _run(settings: Settings, files: FileStore, job: Job, stop: asyncio.Event) -> tuple[Progress, bool]:
    async with _replies(settings) as replies:
        with CONSOLE.progress(f"through {settings.topic_replay}", settings.max_batch_lines) as advance:

            async def tell(progress: Progress) -> bool:
                done = progress.completed + progress.failed
                advance(settings.max_batch_lines * done / max(1, progress.total), done)
                return not stop.is_set()

            progress = await Runner(files, replies).run(job, tell)
    return progress, progress.completed + progress.failed < progress.total


@asynccontextmanager
async def _replies(settings: Settings) -> AsyncIterator[Replies]:
    """What asks, and hears the answers on a partition at random."""
    metrics, link = BridgeMetrics(), connection(settings)
    publisher = KafkaPublisher(link, metrics)
    with codec(settings) as records:
        await publisher.start()
        replies = Replies(settings, link, records, publisher, metrics)
        hearing = asyncio.get_running_loop().create_task(replies.hear())
        try:
            yield replies
        finally:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing
            await publisher.stop()


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _tell(request: Request, progress: Progress, *, as_json: bool) -> None:
    failed = {"errors": str(request.errors)} if progress.failed else {}
    if as_json:
        counts = {"total": progress.total, "completed": progress.completed, "failed": progress.failed}
        print_json({**counts, "output": str(request.output), **failed})
        return
    remark(f"{plural(progress.completed, 'line')} in {request.output}")
    if progress.failed:
        remark(f"{plural(progress.failed, 'line')} failed, see {request.errors}")
