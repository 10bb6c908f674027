"""Callers who hang up, and those who do not."""

import asyncio

import pytest

from agents.bridge.app import Bridge, create
from agents.bridge.calls import Attached, HungUp
from tests.support.bridge import Loopback


class Caller:
    """A request whose caller can hang up."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        """Waits until the caller hangs up."""
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def attached(caller: Caller, seconds: float) -> str:
    """Does something that takes so long for a caller."""
    async with Attached(caller):  # type: ignore[arg-type]
        await asyncio.sleep(seconds)
    return "done"


async def test_work_ends_when_its_caller_hangs_up() -> None:
    """HungUp, at once."""
    caller = Caller()
    working = asyncio.create_task(attached(caller, 3600))
    await asyncio.sleep(0)
    caller.gone.set()
    with pytest.raises(HungUp):
        await working


async def test_work_that_ends_first_is_not_disturbed() -> None:
    """Whoever hangs up afterwards hangs up on nothing."""
    caller = Caller()
    assert await attached(caller, 0) == "done"
    caller.gone.set()
    await asyncio.sleep(0.01)


async def test_errors_of_the_work_pass_through() -> None:
    """They are not taken for a caller who left."""
    with pytest.raises(ValueError, match="mine"):
        async with Attached(Caller()):  # type: ignore[arg-type]
            raise ValueError("mine")


async def test_cancelling_is_not_hanging_up() -> None:
    """A task that is cancelled for another reason is cancelled."""
    working = asyncio.create_task(attached(Caller(), 3600))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_a_caller_who_hangs_up_frees_its_place(bridge: Bridge, stream: Loopback) -> None:
    """The bridge stops waiting, counts the request as 499, and has room for another."""
    stream.working.clear()
    body = b'{"input": "I will not wait."}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers, "query_string": b""}
    messages = asyncio.Queue[dict[str, object]]()
    messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    client = {"client": ("127.0.0.1", 1), "server": ("bridge", 80), "scheme": "http", "root_path": ""}
    answering = asyncio.create_task(create(bridge)({**scope, **client}, messages.get, send))  # type: ignore[arg-type]
    while not bridge.replies.asked:
        await asyncio.sleep(0.001)
    assert bridge.admission.in_flight > 0
    messages.put_nowait({"type": "http.disconnect"})
    await answering
    assert (bridge.replies.asked, bridge.admission.in_flight) == (0, 0)
    assert sent[0]["status"] == 499
