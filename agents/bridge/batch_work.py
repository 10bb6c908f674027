"""Which bridge works on which batch: each takes one that nobody works on, for as long as it shows signs of life."""

import asyncio
import os
import socket
import time
from typing import Any

import structlog

from agents.bridge.batch_jobs import Job, Progress, Runner
from agents.bridge.batch_lines import form_of
from agents.bridge.replies import Replies
from schemas.errors import Retry, StreamsError
from streams.models.catalog import now
from streams.models.database import Database
from streams.models.files import FileStore, NoFile
from streams.models.ledger import Ledger, Row
from streams.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds between two looks for work, and between two notes of how far a batch is.
LOOK, NOTE = 2.0, 2.0
#: Milliseconds in which a batch must be done.
WINDOW = 24 * 3_600_000


class Batches:
    """The batches and files of this bridge, and its work on them."""

    def __init__(self, settings: Settings, replies: Replies) -> None:
        """Connects to nothing. Raises BadDatabaseUrl."""
        self.settings = settings
        self.files = FileStore(settings.artifacts)
        self.database = Database(settings.database_url)
        self.ledger = Ledger(self.database)
        self._runner = Runner(self.files, replies)
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(4).hex()}"
        self._wanted = asyncio.Event()
        if settings.database_url is not None:
            self._wanted.set()

    def wake(self) -> None:
        """Begins to look for work: without a database that others share there is none before somebody asks."""
        self._wanted.set()

    async def run(self) -> None:
        """Works until it is cancelled; what it leaves another takes up, or this one after its restart."""
        await self._wanted.wait()
        while True:
            try:
                row = await asyncio.to_thread(self.ledger.claim, self._holder)
                if row is not None:
                    await self._work(row)
                    continue
            except StreamsError as error:
                log.warning("batches-wait", error=str(error))
            await asyncio.sleep(LOOK)

    async def close(self) -> None:
        """Disconnects."""
        await asyncio.to_thread(self.database.close)

    async def _work(self, row: Row) -> None:
        log.info("batch", id=row["id"], status=row["status"])
        job = await asyncio.to_thread(self._job, row)
        keeper = _Keeper(self.ledger, row, self._holder)
        try:
            progress = await self._runner.run(job, keeper.tell)
        except Retry:
            raise
        except StreamsError as error:
            why = [{"code": "unusable-file", "message": str(error), "line": None, "param": None}]
            await asyncio.to_thread(self.ledger.advance, row["id"], self._holder, "failed", errors=why)
            return
        if keeper.lost:
            return
        status = keeper.ending
        await asyncio.to_thread(self._register, row, job, progress)
        counts = _counts(progress)
        named = {"output_file_id": _id(job.output), "error_file_id": _id(job.errors) if progress.failed else None}
        await asyncio.to_thread(self.ledger.advance, row["id"], self._holder, status, **counts, **named)
        await asyncio.to_thread(self._runner.clear, job)
        log.info("batch-ended", id=row["id"], status=status, **counts)

    def _job(self, row: Row) -> Job:
        source = self.ledger.file(row["owner"], row["input_file_id"])
        name = "" if source is None else source["filename"]
        return Job(
            id=row["id"],
            form=form_of(name),
            source=f"files/{row['input_file_id']}",
            output=f"files/file-{row['id']}-output",
            errors=f"files/file-{row['id']}-errors",
            most=self.settings.max_batch_lines,
        )

    def _register(self, row: Row, job: Job, progress: Progress) -> None:
        named = ((job.output, job.form.value), (job.errors, "jsonl"))
        for name, suffix in named[: 1 + (progress.failed > 0)]:
            fixed = {"owner": row["owner"], "purpose": "batch_output", "status": "processed", "created_at": now()}
            try:
                size = self.files.size(name)
            except NoFile:
                continue
            self.ledger.add_file({"id": _id(name), "filename": f"{_id(name)}.{suffix}", "bytes": size, **fixed})


class _Keeper:
    """Tells the ledger how far a batch is, and hears from it whether to go on."""

    def __init__(self, ledger: Ledger, row: Row, holder: str) -> None:
        self._ledger, self._row, self._holder = ledger, row, holder
        self._next = 0.0
        self._status: str | None = row["status"]
        self._expires = row["created_at"] + WINDOW

    @property
    def lost(self) -> bool:
        """Whether somebody else works on it by now."""
        return self._status is None

    @property
    def ending(self) -> str:
        """What the batch is once this work on it has ended."""
        if self._status == "cancelling":
            return "cancelled"
        return "expired" if now() > self._expires else "completed"

    async def tell(self, progress: Progress) -> bool:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTE
            advance: Any = self._ledger.advance
            try:
                self._status = await asyncio.to_thread(
                    advance, self._row["id"], self._holder, "in_progress", **_counts(progress)
                )
            except Retry as error:  # the work goes on; it is somebody else's only once the database says so
                log.warning("batch-not-noted", id=self._row["id"], error=str(error))
        return self._status not in {None, "cancelling"} and now() <= self._expires


def _counts(progress: Progress) -> dict[str, int]:
    return {"total": progress.total, "completed": progress.completed, "failed": progress.failed}


def _id(name: str) -> str:
    return name.removeprefix("files/")
