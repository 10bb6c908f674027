"""Replays and redrives that a bridge runs: each in a thread of its own, and how far it is for every replica to tell."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import orjson
import structlog
from confluent_kafka import KafkaException
from pydantic import BaseModel, Field

from agents import transfers
from agents.bridge.asking import unavailable
from agents.bridge.problems import Kind, Problem
from agents.bridge.stores import Found, Results, StoreUnavailable
from agents.console import Advance, Voice
from schemas.errors import Retry, StreamsError
from streams.transfer import Tally

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Whose operations are in the store of results: whoever may begin one may look at all of them.
OWNER = "operations"
#: Seconds between two notes of how far an operation is, and two looks whether it is to stop.
NOTE = 1.0
#: Operations of one bridge at a time: each reads whole topics.
AT_ONCE = 4


class OperationResponse(BaseModel):
    """A replay or redrive that was begun, and how far it is."""

    object: Literal["operation"]
    id: str = Field(description="The same for the same selection: beginning it again goes on where it ended.")
    status: Literal["running", "done", "stopped", "failed"]
    plan: dict[str, Any] = Field(description="What was found when it began, as the command's --json has it.")
    passed: int = Field(description="Offsets gone through.")
    moved: int = Field(description="Records sent.")
    executed: dict[str, Any] | None = Field(description="What became of the records, once it has ended.")
    detail: str = Field(description="The last thing it said; why it failed.")


@dataclass(slots=True)
class Operation:
    """One operation of this bridge; the fields are OperationResponse's."""

    id: str
    plan: dict[str, Any]
    status: str = "running"
    passed: int = 0
    moved: int = 0
    executed: dict[str, Any] | None = None
    detail: str = ""
    stop: threading.Event = field(default_factory=threading.Event)

    def json(self) -> bytes:
        """Returns it as an OperationResponse."""
        names = ("id", "plan", "status", "passed", "moved", "executed", "detail")
        return orjson.dumps({"object": "operation", **{name: getattr(self, name) for name in names}})

    @property
    def voice(self) -> Voice:
        """What the operation tells of itself through."""
        return Voice(self._remark, self._progress)

    def _remark(self, line: str) -> None:
        self.detail = line
        log.info("operation", id=self.id, detail=line)

    @contextmanager
    def _progress(self, _title: str, _total: float) -> Iterator[Advance]:
        yield self._advance

    def _advance(self, passed: float, moved: int) -> None:
        self.passed, self.moved = int(passed), moved


def silent() -> Voice:
    """Returns a voice that nobody hears."""
    return Operation("", {}).voice


#: Moves records until the end, or until the event says that it is to stop.
Main = Callable[[Operation, asyncio.Event], Coroutine[Any, Any, Tally]]


class Operations:
    """What runs in this bridge."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._running: dict[str, tuple[Operation, asyncio.Task[None]]] = {}

    async def begin(self, operation: Operation, main: Main) -> bytes:
        """Begins an operation and returns what to tell of it. Raises Problem where it runs here already."""
        if operation.id in self._running:
            raise Problem(Kind.CONFLICT, "this operation is running; look at it, or stop it")
        if len(self._running) >= AT_ONCE:
            raise Problem(Kind.OVERLOADED, f"{AT_ONCE} operations are running", headers={"Retry-After": "10"})
        await self._results.put(OWNER, _stop(operation.id), b"")
        await self._results.put(OWNER, operation.id, operation.json())
        task = asyncio.get_running_loop().create_task(self._watch(operation, main))
        self._running[operation.id] = operation, task
        return operation.json()

    async def look(self, operation_id: str) -> bytes:
        """Returns what was last told of an operation, on any replica. Raises Problem where there is none."""
        found = await self._results.get(OWNER, operation_id)
        if not isinstance(found, Found):
            raise Problem(Kind.NOT_FOUND, "no such operation was begun lately")
        return found.result

    async def stop(self, operation_id: str) -> bytes:
        """Has an operation stop, whichever replica runs it; returns what was last told of it. Raises Problem."""
        told = await self.look(operation_id)
        await self._results.put(OWNER, _stop(operation_id), b"stop")
        return told

    async def close(self) -> None:
        """Stops what runs here: the same operation begun again goes on where it ended."""
        running = list(self._running.values())
        for operation, _ in running:
            operation.stop.set()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _watch(self, operation: Operation, main: Main) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(asyncio.run, _run(operation, main)))
        while not task.done():
            await asyncio.wait({task}, timeout=NOTE)
            try:
                await self._note(operation)
            except StoreUnavailable as error:
                log.warning("operation-not-noted", id=operation.id, error=str(error))
        del self._running[operation.id]

    async def _note(self, operation: Operation) -> None:
        await self._results.put(OWNER, operation.id, operation.json())
        asked = await self._results.get(OWNER, _stop(operation.id))
        if isinstance(asked, Found) and asked.result:
            operation.stop.set()


def _stop(operation_id: str) -> str:
    return f"{operation_id}/stop"


async def _run(operation: Operation, main: Main) -> None:
    """Runs in a thread and an event loop of its own, so that callers of the bridge do not wait for it."""
    stop = asyncio.Event()
    listening = asyncio.get_running_loop().create_task(_listen(operation, stop))
    try:
        tally = await main(operation, stop)
        operation.passed, operation.moved = tally.passed, tally.moved
        operation.executed = transfers.as_json(tally)
        operation.status = "stopped" if tally.stopped else "done"
    except (StreamsError, KafkaException) as error:
        operation.status, operation.detail = "failed", str(error)
    except Exception as error:  # whoever looks must not see it run for ever
        log.exception("operation-failed", id=operation.id)
        operation.status, operation.detail = "failed", type(error).__name__
    finally:
        listening.cancel()
    log.info("operation-ended", id=operation.id, status=operation.status, moved=operation.moved)


async def _listen(operation: Operation, stop: asyncio.Event) -> None:
    while not operation.stop.is_set():
        await asyncio.sleep(NOTE / 4)
    stop.set()


async def blocking(ask: Callable[[], T], seconds: float) -> T:
    """Runs what asks the brokers in a thread; raises Problem with what was wrong, or where it takes too long."""
    return await answered(asyncio.to_thread(ask), seconds)


async def answered(asking: Awaitable[T], seconds: float) -> T:
    """Awaits an answer of the brokers; raises Problem with what was wrong, or where it takes too long."""
    try:
        async with asyncio.timeout(seconds):
            return await asking
    except TimeoutError:
        raise Problem(Kind.DEADLINE, "reading took too long: choose less, or allow more time") from None
    except Retry as error:
        raise unavailable(str(error)) from None
    except KafkaException as error:
        raise unavailable(error.args[0].str()) from None
    except StreamsError as error:
        raise Problem(Kind.INVALID, str(error)) from None
