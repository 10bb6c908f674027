"""The command line, with a worker that fails as `FAULT_UNDER_TEST` says once it fetches a record keyed `fail`."""

import asyncio
import os
import time
from typing import Any

from agents import cli, transport
from streams.pipeline import Pipeline

original_fetch = transport.ConsumerThread.fetch


async def fetch(thread: Any, topic: str) -> Any:
    """Fetches, and fails where the record has come."""
    fetched = await original_fetch(thread, topic)
    if fetched and any(record.key == b"fail" for records in fetched.records.values() for record in records):
        await FAULTS[os.environ["FAULT_UNDER_TEST"]](thread)
    return fetched


async def fetch_raises(_: Any) -> None:
    """What the fetch of aiokafka may always do."""
    raise RuntimeError("the fetch failed")


async def agent_raises(_: Any) -> None:
    """A bug in what takes the fetches."""

    async def accept(*_: Any) -> None:
        raise RuntimeError("the agent failed")

    Pipeline.accept = accept  # type: ignore[method-assign]


async def thread_crashes(thread: Any) -> None:
    """The service that is the consumer's thread ends, as where a task of its own raises."""
    await thread.crash(RuntimeError("the thread failed"))


async def thread_hangs(thread: Any) -> None:
    """Something fails in the pipeline, and the consumer's thread never comes back from a call."""
    app = thread.app
    thread.parent_loop.call_soon_threadsafe(app.pipeline._on_crash, RuntimeError("the pipeline failed"))
    time.sleep(3600)  # noqa: ASYNC251 - hanging is the point


async def model_ends(thread: Any) -> None:
    """The model's thread ends in the middle of a batch."""

    def end(*_: Any) -> None:
        raise SystemExit

    thread.app.pipeline._stage.run = end
    await asyncio.sleep(0)


FAULTS = {
    "fetch raises": fetch_raises,
    "agent raises": agent_raises,
    "thread crashes": thread_crashes,
    "thread hangs": thread_hangs,
    "model ends": model_ends,
}

if __name__ == "__main__":
    transport.ConsumerThread.fetch = fetch  # type: ignore[method-assign]
    cli.main()
