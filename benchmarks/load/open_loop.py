"""An open loop: each request goes out when it is due, whatever became of those before it.

Run as a process of its own, with a Plan as JSON on stdin and a Tally as JSON on stdout. Arrivals are a Poisson process.
Seconds count from when a request was due, not from when it was written: where every connection is busy the wait for one
counts, too, so nothing slow is left out because it kept others from being sent (coordinated omission).
"""

import asyncio
import json
import random
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

#: Connections that are opened at a time.
OPENING = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: `bodies` (JSON) in turn to `path`, `rate` a second over so many connections.

    Of `seconds`, the first `warm` are not counted. An answer that did not come `patience` seconds after the last
    request is none.
    """

    port: int
    path: str
    bodies: Sequence[str]
    rate: float
    seconds: float
    connections: int
    headers: Sequence[str] = ()
    warm: float = 2.0
    patience: float = 10.0


@dataclass(slots=True)
class Tally:
    """What came: seconds of each answer by status (of requests due after `warm`), and what did not."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    #: Requests without an answer: the connection broke, or patience ended.
    lost: int = 0
    #: Answers with 200 that came in a second of the counted time, whenever they were due.
    good_per_second: float = 0.0
    #: Seconds that the sender itself was late where a connection was free, at worst.
    late: float = 0.0


class Connection(asyncio.Protocol):
    """One connection, kept open; at most one request is on it."""

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        self._data = b""
        #: When the request that is under way was due; None: it is free.
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._sender.free.append(self)

    def send(self, request: bytes, due: float) -> None:
        """Writes a request that was due at this time of the loop."""
        self.due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data = data if not self._data else self._data + data
        head = self._data.find(b"\r\n\r\n")
        if head < 0 or len(self._data) < head + 4 + _length(self._data[:head]):
            return
        status, self._data = int(self._data[9:12]), b""
        due, self.due = self.due, None
        assert due is not None
        self._sender.answered(self, status, due)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.broke(self)

    def close(self) -> None:
        """Ends it."""
        self._transport.abort()


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    end = head.find(b"\r\n", at)
    return int(head[at + 15 : end if end >= 0 else len(head)])


class Sender:
    """Sends what is due, and counts what comes."""

    def __init__(self, plan: Plan) -> None:
        self.free: deque[Connection] = deque()
        self._plan, self._tally = plan, Tally()
        self._waiting: deque[float] = deque()
        self._requests = [_request(plan, body) for body in plan.bodies]
        self._turn = 0
        self._left, self._good = 0, 0
        self._done = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Tally:
        """Opens all connections, then sends for as long as the plan says."""
        plan = self._plan
        opened: list[Connection] = []
        for first in range(0, plan.connections, OPENING):
            some = range(min(OPENING, plan.connections - first))
            opened += await asyncio.gather(*(self._open() for _ in some))
        begin = self._loop.time() + 0.2
        self._from, self._until = begin + plan.warm, begin + plan.seconds
        dues = list(_arrivals(plan, begin))
        self._left = len(dues)
        await self._send(dues)
        try:
            async with asyncio.timeout(plan.patience):
                await self._done.wait()
        except TimeoutError:
            self._tally.lost += self._left
        self._done.set()
        for connection in opened:
            connection.close()
        self._tally.good_per_second = self._good / (plan.seconds - plan.warm)
        return self._tally

    async def _open(self) -> Connection:
        made = socket.create_connection(("127.0.0.1", self._plan.port))
        made.setblocking(False)
        return (await self._loop.create_connection(lambda: Connection(self), sock=made))[1]

    async def _send(self, dues: Sequence[float]) -> None:
        for due in dues:
            if (wait := due - self._loop.time()) > 0:
                await asyncio.sleep(wait)
            elif self.free:
                self._tally.late = max(self._tally.late, -wait)
            self._waiting.append(due)
            self._write()

    def _write(self) -> None:
        while self._waiting and self.free:
            self._turn += 1
            self.free.popleft().send(self._requests[self._turn % len(self._requests)], self._waiting.popleft())

    def answered(self, connection: Connection, status: int, due: float) -> None:
        """Counts an answer; its connection takes the next request."""
        now = self._loop.time()
        if due >= self._from:
            self._tally.seconds.setdefault(status, []).append(now - due)
        self._good += status == 200 and self._from <= now < self._until
        self.free.append(connection)
        self._finish()
        self._write()

    def broke(self, connection: Connection) -> None:
        """Counts a request that gets no answer; nobody closes a connection during a run but by a fault."""
        if self._done.is_set():
            return
        if connection.due is not None:
            self._tally.lost += 1
            self._finish()
        elif connection in self.free:
            self.free.remove(connection)

    def _finish(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()


def _arrivals(plan: Plan, begin: float) -> Iterator[float]:
    chance, at = random.Random(5), begin
    while (at := at + chance.expovariate(plan.rate)) < begin + plan.seconds:
        yield at


def _request(plan: Plan, body: str) -> bytes:
    content = body.encode()
    head = [f"POST {plan.path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    head += [f"Content-Length: {len(content)}", *plan.headers]
    return "\r\n".join([*head, "", ""]).encode() + content


async def _main() -> None:
    tally = await Sender(Plan(**json.load(sys.stdin))).run()
    json.dump(asdict(tally), sys.stdout)


if __name__ == "__main__":
    uvloop.run(_main())
