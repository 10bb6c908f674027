"""Batches at work: chunks of lines through the replay lane, each chunk's answers kept until all are there.

A chunk's answers are a part in the store, `batches/ID/NUMBER.jsonl`. Whoever takes a batch up after a crash finds the
parts and asks for the others only; the same file is always cut into the same chunks, so a part written twice is the
same part.
"""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from agents.bridge.batch_lines import Form, Line, UnusableFile, chunks, read, write
from agents.bridge.embeddings import item
from agents.bridge.replies import NotAnswered, Replies, TooLarge, Unreachable
from schemas.errors import Retry
from schemas.records import Overflow, Reply, Sentence
from streams.models.files import FileStore

log = structlog.get_logger(__name__)

#: Lines of a chunk, and of sentences that one asking has at most.
CHUNK = 128
#: Seconds until answers that did not come are asked for again, and until an outage is looked at again.
PATIENCE, PAUSE = 600.0, 1.0
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "sentence-streams/batches")


@dataclass(slots=True)
class Progress:
    """Lines so far."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    def count(self, entries: Sequence[dict[str, Any]]) -> None:
        """Adds the entries of a part."""
        wrong = sum(entry["error"] is not None for entry in entries)
        self.failed += wrong
        self.completed += len(entries) - wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch: where its lines are, and where the results go."""

    id: str
    form: Form
    #: Names in the store.
    source: str
    output: str
    errors: str
    most: int


#: Told after each chunk; returns whether to go on.
Tell = Callable[[Progress], Awaitable[bool]]


class Runner:
    """Runs batches, for a bridge and for the command line alike."""

    def __init__(self, files: FileStore, replies: Replies) -> None:
        self._files, self._replies = files, replies

    async def run(self, job: Job, tell: Tell) -> Progress:
        """Asks for every line and writes the two files; returns early, with what there is, where `tell` says so.

        Raises UnusableFile, NoFile, StoreUnavailable. Outages of the stream are waited out.
        """
        progress = Progress(total=await asyncio.to_thread(self._count, job))
        parts = set(await asyncio.to_thread(self._files.names, f"batches/{job.id}/"))
        going = await tell(progress)
        lines = self._chunks(job)
        for number in itertools.count():
            chunk = await asyncio.to_thread(next, lines, None)
            if chunk is None or not going:
                break
            part = _part(job, number)
            if part in parts:
                progress.count(await asyncio.to_thread(self._entries, part))
            else:
                entries = await self._asked(job, chunk, lambda: tell(progress))
                if entries is None:
                    break
                await asyncio.to_thread(self._files.put, part, [b"".join(map(_dumped, entries))])
                progress.count(entries)
            going = await tell(progress)
        await asyncio.to_thread(self._finish, job)
        return progress

    def clear(self, job: Job) -> None:
        """Removes the parts of a batch that has ended."""
        self._files.delete(*self._files.names(f"batches/{job.id}/"))

    # -- asking -----------------------------------------------------------------------------------------------

    async def _asked(
        self, job: Job, chunk: Sequence[Line], going: Callable[[], Awaitable[bool]]
    ) -> list[dict[str, Any]] | None:
        """One entry a line; None where it is to stop before the answers came."""
        sentences = [sentence for line in chunk for sentence in _sentences(job, line)]
        asking = asyncio.ensure_future(self._replies_to(sentences))
        try:
            while not (await asyncio.wait({asking}, timeout=5.0))[0]:
                if not await going():
                    return None
        finally:
            asking.cancel()
        replies = iter(asking.result())
        return [_entry(job, line, list(itertools.islice(replies, _inputs(line)))) for line in chunk]

    async def _replies_to(self, sentences: Sequence[Sentence]) -> list[Reply | str]:
        found: list[Reply | str] = []
        for start in range(0, len(sentences), CHUNK):
            found += await self._patiently(sentences[start : start + CHUNK])
        return found

    async def _patiently(self, sentences: Sequence[Sentence]) -> list[Reply | str]:
        while True:
            try:
                await self._replies.hears.wait()
                return list(await self._replies.ask_later(sentences, time.monotonic() + PATIENCE))
            except TooLarge as error:
                if len(sentences) == 1:
                    return ["its record is larger than the broker takes"]
                before, after = sentences[: error.index], sentences[error.index + 1 :]
                tail = await self._patiently(sentences[error.index : error.index + 1])
                return [
                    *(await self._patiently(before) if before else ()),
                    *tail,
                    *(await self._patiently(after) if after else ()),
                ]
            except (NotAnswered, Unreachable, Retry) as error:
                log.warning("batch-waits", error=str(error), meaning="it asks again")
                await asyncio.sleep(PAUSE)

    # -- reading and writing ----------------------------------------------------------------------------------

    def _chunks(self, job: Job) -> Iterator[list[Line]]:
        with self._files.open(job.source) as stream:
            yield from chunks(read(stream, job.form), CHUNK)

    def _count(self, job: Job) -> int:
        count = sum(map(len, self._chunks(job)))
        if not count:
            raise UnusableFile("expected at least one line")
        if count > job.most:
            raise UnusableFile(f"expected at most {job.most} lines, it has {count}")
        return count

    def _entries(self, part: str) -> list[dict[str, Any]]:
        with self._files.open(part) as stream:
            return [orjson.loads(line) for line in stream]

    def _finish(self, job: Job) -> None:
        parts = self._files.names(f"batches/{job.id}/")

        def entries(wrong: bool) -> Iterator[dict[str, Any]]:
            return (e for part in parts for e in self._entries(part) if (e["error"] is not None) is wrong)

        self._files.put(job.output, write(entries(False), job.form))
        self._files.put(job.errors, write(entries(True), Form.JSONL))


def _part(job: Job, number: int) -> str:
    return f"batches/{job.id}/{number:08d}.jsonl"


def _inputs(line: Line) -> int:
    if line.request is None:
        return 0
    return 1 if isinstance(line.request.input, str) else len(line.request.input)


def _sentences(job: Job, line: Line) -> Iterator[Sentence]:
    """The sentences of a line; their ids are the same whoever asks, and however often."""
    if (request := line.request) is None:
        return
    texts = [request.input] if isinstance(request.input, str) else request.input
    for index, text in enumerate(texts):
        yield Sentence(
            id=str(uuid.uuid5(_NAMESPACE, f"{job.id}/{line.number}/{index}")),
            text=text,
            model=request.model,
            dimensions=request.dimensions,
            overflow=Overflow(request.overflow),
        )


def _entry(job: Job, line: Line, replies: Sequence[Reply | str]) -> dict[str, Any]:
    request_id = uuid.uuid5(_NAMESPACE, f"{job.id}/{line.number}").hex
    fixed = {"id": f"batch_req_{request_id}", "custom_id": line.custom_id}
    if (problem := _problem(line, replies)) is not None:
        code, message = problem
        return {**fixed, "response": None, "error": {"code": code, "message": message, "line": line.number}}
    made = [reply.embedding for reply in replies if isinstance(reply, Reply) and reply.embedding is not None]
    tokens = sum(each.token_count for each in made)
    assert line.request is not None
    data = [item(n, each.vector, each.truncated, line.request) for n, each in enumerate(made)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = {"object": "list", "data": data, "model": made[0].model, "revision": made[0].revision, "usage": usage}
    return {**fixed, "response": {"status_code": 200, "request_id": request_id, "body": body}, "error": None}


def _dumped(entry: dict[str, Any]) -> bytes:
    return orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _problem(line: Line, replies: Sequence[Reply | str]) -> tuple[str, str] | None:
    if line.request is None:
        return "invalid-line", line.problem
    for reply in replies:
        if isinstance(reply, str):
            return "record-too-large", reply
        if reply.error is not None:
            return reply.error.reason, reply.error.message
    if len({reply.served.identity for reply in replies if isinstance(reply, Reply)}) > 1:
        return "model-switched", "the model was switched while this line was on its way; send it again"
    return None
