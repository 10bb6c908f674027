"""Vectors in Redis: what to expect of it is told in `streams.cache`.

A value is a checksum of 4 bytes (CRC-32 of its key and its numbers, little-endian) and the numbers, little-endian
float32. Threads of our own ask: time-outs of a socket bound one read, not the whole of name lookup, connecting, many
reads and a second try; whoever waits for a thread can stop waiting.
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar, cast

import numpy as np
import redis
import structlog
from circuitbreaker import CircuitBreaker
from pydantic import SecretStr
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.embedding.embedder import Vectors
from streams.observe.metrics import Metrics

log = structlog.get_logger(__name__)

#: Before every key in Redis; the number changes with the format of the values.
PREFIX = "sentence-streams:vector:1:"
#: Seconds a caller waits for Redis.
PATIENCE = 0.25
#: Failures in a row after which Redis is left alone, and for how many seconds.
FAILURES = 3
REST = 5
#: Questions to Redis at once; further ones queue while their patience runs.
THREADS = 8

#: One command for all of a batch: a pipeline of SETs takes three times the work here.
PUT = "for place, key in ipairs(KEYS) do redis.call('SET', key, ARGV[place + 1], 'EX', ARGV[1]) end"

FLOATS = np.dtype("<f4")
_CHECKSUM = 4
_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class RedisCache:
    """Vectors that all processes share."""

    def __init__(self, url: SecretStr, seconds: int, metrics: Metrics) -> None:
        """`seconds`: how long Redis keeps a vector."""
        self._redis = redis.Redis.from_url(
            url.get_secret_value(),
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),  # a miss is cheaper; a pooled connection that broke is not used anyway
        )
        self._put = self._redis.register_script(PUT)
        self._seconds = seconds
        self._metrics = metrics
        self._questions = _Questions()

    def get_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        try:
            values = self._questions.ask(self._look_up, keys)
        except _NoAnswer as reason:
            return self._nothing(keys, reason)
        return self._opened(keys, values)

    async def find_many(self, keys: Sequence[str]) -> list[Vectors | None]:
        try:
            values = await self._questions.ask_from_loop(self._look_up, keys)
        except _NoAnswer as reason:
            return self._nothing(keys, reason)
        return self._opened(keys, values)

    def put_many(self, vectors: Mapping[str, Vectors]) -> None:
        sealed = {key: _seal(key, np.asarray(vector, FLOATS).tobytes()) for key, vector in vectors.items()}
        try:
            self._questions.ask(self._store, sealed)
            outcome = "stored"
        except _NoAnswer as reason:
            outcome = str(reason)
        self._metrics.cache_writes.labels("redis", outcome).inc(len(sealed))

    def remember(self, vectors: Mapping[str, Vectors]) -> None:
        """There is no memory here to keep them in."""

    def close(self) -> None:
        self._questions.close()
        self._redis.close()

    def _look_up(self, keys: Sequence[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", self._redis.mget([PREFIX + key for key in keys])) if keys else []

    def _store(self, sealed: Mapping[str, bytes]) -> None:
        if sealed:
            self._put([PREFIX + key for key in sealed], [self._seconds, *sealed.values()])

    def _opened(self, keys: Sequence[str], values: Sequence[bytes | None]) -> list[Vectors | None]:
        found = [None if value is None else _open(key, value) for key, value in zip(keys, values, strict=True)]
        outcomes = Counter(
            "hit" if vector is not None else "miss" if value is None else "foreign"
            for value, vector in zip(values, found, strict=True)
        )
        for outcome, count in outcomes.items():
            self._metrics.cache_lookups.labels("redis", outcome).inc(count)
        return found

    def _nothing(self, keys: Sequence[str], reason: "_NoAnswer") -> list[Vectors | None]:
        self._metrics.cache_lookups.labels("redis", str(reason)).inc(len(keys))
        return [None] * len(keys)


def _seal(key: str, numbers: bytes) -> bytes:
    return zlib.crc32(numbers, zlib.crc32(key.encode())).to_bytes(_CHECKSUM, "little") + numbers


def _open(key: str, value: bytes) -> Vectors | None:
    numbers = value[_CHECKSUM:]
    if not numbers or len(numbers) % FLOATS.itemsize or value != _seal(key, numbers):
        return None
    return np.frombuffer(numbers, FLOATS)


class _NoAnswer(Exception):
    """`skipped`: nobody asked, since Redis is left alone; `error`: no answer in time, or one that is an error."""


class _Questions:
    """Asks Redis from a few threads; a caller waits for PATIENCE at most."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "redis-cache")
        # An error that Redis answers comes fast, as when it is full, and is no reason to leave it alone.
        self._breaker = CircuitBreaker(FAILURES, REST, lambda kind, _: not issubclass(kind, redis.ResponseError))
        self._failing: set[str] = set()

    def ask(self, question: Callable[[_Asked], _Answer], about: _Asked) -> _Answer:
        """Returns what `question(about)` returns; raises _NoAnswer."""
        future = self._start(question, about)
        wait([future], PATIENCE)
        return self._end(question.__name__, future)

    async def ask_from_loop(self, question: Callable[[_Asked], _Answer], about: _Asked) -> _Answer:
        """The same for an event loop."""
        future = self._start(question, about)
        await asyncio.wait([asyncio.wrap_future(future)], timeout=PATIENCE)
        return self._end(question.__name__, future)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _start(self, question: Callable[[_Asked], _Answer], about: _Asked) -> "Future[_Answer | Exception]":
        if self._breaker.opened:
            raise _NoAnswer("skipped")
        return self._threads.submit(_attempt, question, about)

    def _end(self, question: str, future: "Future[_Answer | Exception]") -> _Answer:
        future.cancel()  # nobody waits for it any more, should it still be in the queue
        answer = future.result() if future.done() and not future.cancelled() else TimeoutError()
        try:
            with self._breaker:
                if isinstance(answer, Exception):
                    raise answer
        except Exception as error:
            self._note(question, error)
            raise _NoAnswer("error") from None
        self._note(question, None)
        return answer

    def _note(self, question: str, error: Exception | None) -> None:
        """Logs the first failure of a kind of question, and when it works again: a full Redis only fails to write."""
        if error is not None and question not in self._failing:
            self._failing.add(question)
            log.warning("shared-cache-fails", question=question.strip("_"), error=type(error).__name__)
        elif error is None and question in self._failing:
            self._failing.discard(question)
            log.info("shared-cache-works-again", question=question.strip("_"))


def _attempt(question: Callable[[_Asked], _Answer], about: _Asked) -> _Answer | Exception:
    try:
        return question(about)
    except (redis.RedisError, OSError) as error:
        return error  # not raised: an event loop would complain of an exception for which nobody waits any more
