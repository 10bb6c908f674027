"""The stores that replicas share in Redis; `agents.bridge.stores` says what to rely on.

Each step is one question to Redis, a script where it has to be atomic. An idempotency key is a hash: fingerprint, token
of whoever began it, and the answer once there is one. A result is a string: empty while it is awaited, then a dot and
the result; a second key outlives it, so that Gone and Unknown can be told apart.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

import structlog
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from agents.bridge.stores.protocols import (
    DAY,
    Begun,
    Done,
    Found,
    Gone,
    Looked,
    Mismatch,
    Pending,
    Running,
    StoreUnavailable,
    Unknown,
    name_of,
)
from agents.bridge.stores.waiting import LOOK_AGAIN, Bells

log = structlog.get_logger(__name__)

#: Before every key and channel in Redis; the number changes with the format of the values.
PREFIX = "sentence-streams:1:"
#: Seconds a caller waits for Redis.
PATIENCE = 2.0
#: Connections to Redis of one process; a thousand callers who wait for results need one of them.
CONNECTIONS = 32
#: Seconds of silence after which the connection that listens is tried, and between two tries to connect again.
QUIET = 10.0
RECONNECT = 1.0

BEGIN = """
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer', 'token')
if not found[1] then
    redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'token', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {'begun'}
elseif found[1] ~= ARGV[1] then
    return {'mismatch'}
elseif found[2] then
    return {'done', found[2]}
elseif found[3] == ARGV[2] then
    return {'begun'} -- asked again after a connection broke
end
return {'running'}
"""
FINISH = """
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'answer')
if not found[1] or (found[1] == ARGV[1] and not found[2]) then
    redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'answer', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
"""
ABANDON = """
local found = redis.call('HMGET', KEYS[1], 'token', 'answer')
if found[1] == ARGV[1] and not found[2] then
    redis.call('DEL', KEYS[1])
end
"""
PUT = """
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
for _, channel in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    redis.call('PUBLISH', channel, ARGV[4])
end
redis.call('DEL', KEYS[3])
"""
#: Looks and, where the result is awaited, leaves the channel of whom to tell: nothing can come in between.
LOOK = """
local found = redis.call('MGET', KEYS[1], KEYS[2])
if found[1] == '' then
    redis.call('SADD', KEYS[3], ARGV[1])
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
end
return found
"""


def connect(url: SecretStr) -> Redis:
    """Returns a client whose questions are bounded in time; it connects when it is first used."""
    pool = BlockingConnectionPool.from_url(
        url.get_secret_value(),
        max_connections=CONNECTIONS,
        timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        # No time-out for the socket: whoever asks has one for the whole question, and the client would write under
        # asyncio.wait_for, in which Python 3.11 loses a cancellation now and then.
        socket_timeout=None,
        # Once more at once: a pooled connection may be to a Redis that was restarted since.
        retry=Retry(NoBackoff(), 1, (NotConnected,)),
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """Bounds what is asked in it by PATIENCE; raises StoreUnavailable where that, or Redis, fails."""
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"the shared store does not answer: {type(error).__name__}") from error


class RedisIdempotency:
    """Keys that all replicas share."""

    def __init__(self, redis: Redis, lease: float) -> None:
        """`lease`: seconds after which a key is free whose replica neither finished nor abandoned it."""
        self._begin = redis.register_script(BEGIN)
        self._finish = redis.register_script(FINISH)
        self._abandon = redis.register_script(ABANDON)
        self._lease = lease
        # Begun here and not ended. A process never begins a key again that it holds, even after the lease.
        self._held: dict[str, _Held] = {}
        self._freeing: set[asyncio.Task[None]] = set()

    async def begin(self, scope: str, key: str, fingerprint: str) -> Begun | Running | Done | Mismatch:
        name = name_of(scope, key)
        if (held := self._held.get(name)) is not None:
            return Running() if held.fingerprint == fingerprint else Mismatch()
        taken = _Held(fingerprint, uuid.uuid4().hex)
        try:
            async with _answered():
                outcome, *answer = await self._begin([_key(name)], [fingerprint, taken.token, _ms(self._lease)])
        except BaseException:
            # No answer, or a caller who left: it may have been begun all the same, and nobody would end it.
            self._freeing.add(task := asyncio.create_task(self._free(name, taken)))
            task.add_done_callback(self._freeing.discard)
            raise
        if outcome == b"begun":
            self._held[name] = taken
        return Done(answer[0]) if answer else _OUTCOMES[outcome]

    async def finish(self, scope: str, key: str, answer: bytes) -> None:
        name = name_of(scope, key)
        if (held := self._held.pop(name, None)) is not None:
            async with _answered():
                await self._finish([_key(name)], [held.fingerprint, answer, _ms(DAY)])

    async def abandon(self, scope: str, key: str) -> None:
        name = name_of(scope, key)
        if (held := self._held.pop(name, None)) is not None:
            await self._free(name, held)

    async def _free(self, name: str, held: "_Held") -> None:
        with suppress(StoreUnavailable):  # the lease will free it
            async with _answered():
                await self._abandon([_key(name)], [held.token])


@dataclass(frozen=True, slots=True)
class _Held:
    fingerprint: str
    token: str


_OUTCOMES: dict[bytes, Begun | Running | Mismatch] = {b"begun": Begun(), b"running": Running(), b"mismatch": Mismatch()}


class RedisResults:
    """Results that all replicas share. One connection listens for all who wait in this process."""

    def __init__(self, redis: Redis, seconds: float) -> None:
        """`seconds`: how long a result is kept, and how long one is waited for."""
        self._redis = redis
        self._put = redis.register_script(PUT)
        self._look = redis.register_script(LOOK)
        self._seconds = seconds
        self._channel = f"{PREFIX}results:{uuid.uuid4().hex}"
        self._bells = Bells()
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def expect(self, client: str, *ids: str) -> None:
        async with _answered():
            pipeline = self._redis.pipeline(transaction=False)
            for id in ids:
                value, known, _ = _keys(name_of(client, id))
                pipeline.set(value, b"", px=_ms(self._seconds))
                pipeline.set(known, b"", px=_ms(self._seconds + DAY))
            await pipeline.execute()

    async def put(self, client: str, id: str, result: bytes) -> None:
        name = name_of(client, id)
        async with _answered():
            lives = _ms(self._seconds), _ms(self._seconds + DAY)
            await self._put(_keys(name), [b"." + result, *lives, name])

    async def get(self, client: str, id: str) -> Looked:
        value, known, _ = _keys(name_of(client, id))
        async with _answered():
            found = cast("list[bytes | None]", await self._redis.mget(value, known))
        return _looked(*found)

    async def wait(self, client: str, id: str, timeout: float) -> Looked:
        name = name_of(client, id)

        async def look() -> Looked:
            async with _answered():
                return _looked(*await self._look(_keys(name), [self._channel, _ms(4 * LOOK_AGAIN)]))

        await self._listen()
        return await self._bells.wait(name, look, timeout)

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def _listen(self) -> None:
        """Returns when results of other replicas are heard; without Redis, after a while, for then looking tells."""
        if self._listener is None:
            self._listener = asyncio.create_task(self._hear())
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._listening.wait()

    async def _hear(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    async with asyncio.timeout(PATIENCE):
                        await pubsub.subscribe(self._channel)
                    await self._hear_all(pubsub)
            except (RedisError, OSError) as error:
                log.warning("results-not-heard", error=type(error).__name__, meaning="who waits looks now and then")
            self._listening.clear()
            await asyncio.sleep(RECONNECT)

    async def _hear_all(self, pubsub: PubSub) -> None:
        """Hands on what comes; raises when the connection is broken, also where nobody told it so."""
        patience = PATIENCE
        while True:
            async with asyncio.timeout(patience + PATIENCE):  # it may connect again before it waits
                message = await pubsub.get_message(timeout=patience)
            if message is None and patience == PATIENCE:
                raise TimeoutError
            if message is None:
                await pubsub.ping()
            elif message["type"] == "subscribe":
                self._listening.set()
            elif message["type"] == "message":
                self._bells.ring(message["data"].decode())
            patience = PATIENCE if message is None else QUIET


def _key(name: str) -> str:
    return f"{PREFIX}idempotency:{name}"


def _keys(name: str) -> tuple[str, str, str]:
    """Returns the keys of a result: its value, that it is known, who waits for it."""
    start = f"{PREFIX}result:{name}:"
    return f"{start}value", f"{start}known", f"{start}waiting"


def _looked(value: bytes | None, known: bytes | None) -> Looked:
    if value is None:
        return Unknown() if known is None else Gone()
    return Found(value[1:]) if value else Pending()


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))
