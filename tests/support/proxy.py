"""A TCP proxy on loopback that can delay, throttle and cut what passes through it."""

import asyncio
import contextlib
import time
from threading import Thread

CHUNK = 16 * 1024


class Proxy:
    """Forwards to a port of loopback, from a thread of its own; use it in a `with`."""

    def __init__(self, port: int) -> None:
        """`port`: where connections are forwarded to; nobody needs to listen there yet."""
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._links: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._rate = 0.0
        self._free = 0.0  # when the line has sent all it was given, in monotonic seconds
        self._open = asyncio.Event()
        self._open.set()

    def __enter__(self) -> "Proxy":
        self._server = self._loop.run_until_complete(asyncio.start_server(self._link, "127.0.0.1", 0))
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def slow(self, delay: float, rate: float) -> None:
        """From now on each direction takes `delay` seconds, and the line `rate` bytes a second."""
        self._delay, self._rate = delay, rate

    def cut(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """Lets new connections through; those of before the cut are gone."""
        self._loop.call_soon_threadsafe(self._drop)
        self._loop.call_soon_threadsafe(self._open.set)

    async def _stop(self) -> None:
        self._server.close()
        self._drop()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _drop(self) -> None:
        for link in self._links:
            link.cancel()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            self._links.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes one direction on; a chunk leaves when the line is free, and arrives `delay` later."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        arriving = asyncio.create_task(self._arrive(line, writer))
        try:
            while data := await reader.read(CHUNK):
                now = time.monotonic()
                if self._rate:
                    self._free = max(self._free, now) + len(data) / self._rate
                    now = self._free
                await line.put((now + self._delay, data))
            await line.put((0.0, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while (item := await line.get())[1]:
            await asyncio.sleep(max(0.0, item[0] - time.monotonic()))
            await self._open.wait()
            writer.write(item[1])
            await writer.drain()
