"""Who may ask now: a bound on the tokens that wait, and no place for whoever would wait longer than it can.

    with admission.admit(tokens, seconds=deadline - now):      # Problem 429 at once, nothing awaited
        replies = await ...

The decision takes no time and awaits nothing, so that refusing stays cheap when most are refused. A place is free
again when the block is left: by the answer, by an error, by a caller who hung up.

How long one would wait is (tokens ahead + own) / speed, and speed is what was really delivered, as congestion control
measures a path (BBR): tokens that were answered while one request waited, over the time it waited. Such a sample is
the real speed only where work queued all that time; with few callers it says how little was asked, not how much could
be done. So a low sample counts only if its request waited several times as long as the quickest lately, and there is
no estimate before the first such sample: until then the bound alone holds. While nobody waits, everybody may ask, so
an estimate that went too low (the stream was away) mends itself.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agents.bridge.problems import Kind, Problem

#: A request waited because of others if it took this many times as long as the quickest.
QUEUED = 4.0
#: Seconds over which the speed, and the quickest time, are averaged.
SPEED_SECONDS = 1.0
QUICKEST_SECONDS = 30.0
#: Share of a caller's time that waiting may fill: an answer that comes just too late is work for nothing.
SHARE = 0.7


class Speed:
    """Tokens that the stream answers in a second, as far as it shows; None before it was ever busy."""

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self._quickest = math.inf
        self._at = -math.inf

    def sample(self, now: float, tokens: int, seconds: float) -> None:
        """Learns from one request: while it waited for `seconds`, `tokens` were answered (its own among them)."""
        seconds = max(seconds, 1e-6)
        since, self._at = now - self._at, now
        queued = seconds > QUEUED * self._quickest
        if seconds < self._quickest:
            self._quickest = seconds
        else:
            self._quickest += (seconds - self._quickest) * _weight(since, QUICKEST_SECONDS)
        speed = tokens / seconds
        if self.tokens_per_second is None:
            self.tokens_per_second = speed if queued else None
        elif queued or speed > self.tokens_per_second:
            self.tokens_per_second += (speed - self.tokens_per_second) * _weight(since, SPEED_SECONDS)


def _weight(since: float, over: float) -> float:
    return 1.0 - math.exp(-since / over)


class Admission:
    """Places for tokens that wait for answers: of what is asked of the stream, not of what a cache answers."""

    def __init__(self, max_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`max_tokens` may wait at once; a single request may have more, but then it waits alone."""
        self.speed = Speed()
        self.in_flight = 0
        self._max, self._clock = max_tokens, clock
        self._answered = 0

    @contextmanager
    def admit(self, tokens: int, seconds: float) -> Iterator[None]:
        """Holds a place for `tokens` while the block runs; `seconds` are left until the caller's deadline.

        Raises Problem (429 with Retry-After) where there is no room, or the wait would be too long. A block that is
        left by an error was not answered.
        """
        self._decide(tokens, seconds)
        began, before = self._clock(), self._answered
        self.in_flight += tokens
        try:
            yield
            self._answered += tokens
            self.speed.sample(self._clock(), self._answered - before, self._clock() - began)
        except Exception:  # not when the caller hung up: that says nothing
            if self._clock() - began >= seconds:
                self.speed.sample(self._clock(), self._answered - before, self._clock() - began)
            raise
        finally:
            self.in_flight -= tokens

    def expected(self, tokens: int) -> float:
        """Returns the seconds that `tokens` would wait for their answer; 0 where nobody knows."""
        speed = self.speed.tokens_per_second
        return 0.0 if speed is None else (self.in_flight + tokens) / max(speed, 1e-9)

    def _decide(self, tokens: int, seconds: float) -> None:
        if not self.in_flight:
            return
        over = self.in_flight + tokens - self._max
        if over > 0:
            speed = self.speed.tokens_per_second
            raise _overloaded("too many tokens wait for their answers", over / speed if speed else 1.0)
        wait = self.expected(tokens)
        if wait > SHARE * seconds:
            raise _overloaded(f"an answer would take about {wait:.1f} s", wait - SHARE * seconds)


def _overloaded(detail: str, seconds: float) -> Problem:
    retry = math.ceil(min(60.0, max(1.0, seconds)))
    return Problem(Kind.OVERLOADED, detail, headers={"Retry-After": str(retry)})
