"""The generator of the open loop: what it counts is what callers would have waited. Real sockets on loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.load.open_loop import Plan, Sender, Tally

ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def server(stall: int = -1, seconds: float = 0.0, break_at: int = -1) -> AsyncIterator[int]:
    """Answers 200, or every third time 429; holds up everybody at one request, breaks the connection at another."""
    came = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            came += 1
            if came == stall:
                await asyncio.sleep(seconds)
            if came == break_at:
                break
            writer.write(ANSWER % (429 if came % 3 == 0 else 200))
        writer.close()

    tasks: list[asyncio.Task[None]] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(serve(reader, writer)))
        await asyncio.wait(tasks[-1:])
        writer.transport.abort()

    async with await asyncio.start_server(one, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)


async def sent(port: int, **given: float) -> Tally:
    """What became of half a second of requests, a hundred a second."""
    plan = {"rate": 100, "seconds": 0.5, "connections": 4, "warm": 0.0} | given
    return await Sender(Plan(port, "/", ['{"a": 1}', '{"a": 22}'], **plan)).run()  # type: ignore[arg-type]


async def test_every_request_is_counted_by_its_status() -> None:
    """Two thirds and one third, none lost."""
    async with server() as port:
        found = await sent(port)
    good, shed = len(found.seconds[200]), len(found.seconds[429])
    assert good > 10
    assert abs(good - 2 * shed) <= 2
    assert found.lost == 0
    # What was due last may be answered when the counted time is over.
    assert good - 4 <= round(found.good_per_second * 0.5) <= good


async def test_who_could_not_be_sent_waited_too() -> None:
    """The only connection hangs: all that fell due meanwhile have waited since then, not since they were written."""
    async with server(stall=5, seconds=0.4) as port:
        found = await sent(port, connections=1)
    times = sorted(found.seconds[200] + found.seconds[429])
    assert sum(took > 0.1 for took in times) > len(times) / 4


async def test_a_broken_connection_is_a_lost_request() -> None:
    """It is counted once, and the others are still sent."""
    async with server(break_at=7) as port:
        found = await sent(port)
    assert found.lost == 1
    assert sum(map(len, found.seconds.values())) > 20


async def test_what_is_not_answered_in_time_is_lost() -> None:
    """Patience ends, and with it the run."""
    async with server(stall=1, seconds=5) as port:
        found = await sent(port, connections=1, patience=0.2)
    assert found.seconds == {}
    assert found.lost > 20
