"""Admission: who gets a place, and a simulated stream under load, in simulated time."""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from agents.bridge.admission import SHARE, Admission
from agents.bridge.problems import Problem


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `admission`."""
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    """A bound of 100 tokens."""
    return Admission(100, clock)


def busy(admission: Admission, clock: Clock, tokens_per_second: float) -> None:
    """Lets it see a stream that answers so many tokens a second with work queued all the time."""
    with admission.admit(1, 60):
        clock.now += 0.001
    with admission.admit(40, 60):
        clock.now += 40 / tokens_per_second
    assert admission.speed.tokens_per_second == pytest.approx(tokens_per_second)


def leave_by(how: type[BaseException], place: AbstractContextManager[None], clock: Clock, after: float) -> None:
    with place:
        clock.now += after
        raise how


def test_places_are_bounded(admission: Admission) -> None:
    """A 429 at once for whoever finds no room, and nothing held by it; room is there again when others leave."""
    with admission.admit(60, 10), admission.admit(40, 10):
        with pytest.raises(Problem) as caught, admission.admit(1, 10):
            pass
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
        assert admission.in_flight == 100
    assert admission.in_flight == 0
    with admission.admit(100, 10):
        pass


def test_a_request_larger_than_the_bound_goes_alone(admission: Admission) -> None:
    """It would never find room otherwise; beside others it waits its turn."""
    with admission.admit(500, 10), pytest.raises(Problem), admission.admit(1, 10):
        pass
    with admission.admit(1, 10), pytest.raises(Problem), admission.admit(500, 10):
        pass


@pytest.mark.parametrize("how", [ValueError, TimeoutError, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt])
def test_a_place_is_given_back_however_it_is_left(admission: Admission, how: type[BaseException]) -> None:
    """An answer, an error, a caller who hung up: the tokens are free."""
    with pytest.raises(how), admission.admit(100, 10):
        raise how
    assert admission.in_flight == 0


async def test_a_cancelled_caller_frees_its_place(admission: Admission) -> None:
    """As a server cancels the task of a caller who hung up, in the middle of waiting."""

    async def ask() -> None:
        with admission.admit(100, 10):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    assert admission.in_flight == 100
    task.cancel()
    await asyncio.wait([task])
    assert admission.in_flight == 0


def test_who_would_wait_too_long_is_told_at_once(admission: Admission, clock: Clock) -> None:
    """With 10 tokens a second and 50 ahead, 10 more take 6 s: too long for 8 s with some to spare, fine for 9."""
    busy(admission, clock, 10)
    with admission.admit(50, 60):
        assert admission.expected(10) == pytest.approx(6)
        assert SHARE * 8 < 6
        with pytest.raises(Problem) as caught, admission.admit(10, 8):
            pass
        assert caught.value.kind.value.slug == "overloaded"
        with admission.admit(10, 9):
            pass


def test_retry_after_comes_from_the_same_estimate(admission: Admission, clock: Clock) -> None:
    """It is when the wait will have come down to what the caller can bear, or the tokens to the bound."""
    busy(admission, clock, 10)
    with admission.admit(90, 60):
        with pytest.raises(Problem) as caught, admission.admit(10, 4):
            pass
        assert caught.value.headers["Retry-After"] == str(round(10 - SHARE * 4 + 0.5))
        with pytest.raises(Problem) as caught, admission.admit(60, 60):
            pass
        assert caught.value.headers["Retry-After"] == "5"


def test_nobody_waits_for_an_idle_stream(admission: Admission, clock: Clock) -> None:
    """With nobody ahead everybody may ask, whatever was measured: only so can a wrong estimate be found out."""
    busy(admission, clock, 0.1)
    with admission.admit(50, 1):
        pass


def test_few_callers_do_not_make_a_slow_stream(admission: Admission, clock: Clock) -> None:
    """Ten tokens in 10 ms, one caller at a time, are no speed of 1,000: nobody tried more. No estimate, no refusal."""
    for _ in range(100):
        with admission.admit(10, 10):
            clock.now += 0.01
    assert admission.speed.tokens_per_second is None
    with admission.admit(50, 0.001), admission.admit(50, 0.001):
        pass


def test_an_estimate_sinks_only_under_load(admission: Admission, clock: Clock) -> None:
    """A quiet night after a busy day does not make the stream slow."""
    busy(admission, clock, 1000)
    for _ in range(100):
        with admission.admit(1, 10):
            clock.now += 0.003
    assert admission.speed.tokens_per_second == pytest.approx(1000)


def test_an_estimate_rises_by_whatever_is_seen(admission: Admission, clock: Clock) -> None:
    """Nobody has to wait for a stream to prove that it became faster: more was answered, so more can be."""
    busy(admission, clock, 10)
    for _ in range(1000):
        with admission.admit(50, 10):
            clock.now += 0.003
    assert admission.expected(100) < 1


def test_a_stream_that_went_away_is_noticed_and_found_again(admission: Admission, clock: Clock) -> None:
    """Time-outs bring the estimate down, so that callers are refused at once; one at a time finds out when it ends."""
    busy(admission, clock, 1000)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            leave_by(TimeoutError, admission.admit(10, 5), clock, after=5)
    with admission.admit(10, 5), pytest.raises(Problem), admission.admit(10, 5):
        pass
    for _ in range(20):
        clock.now += 1
        with admission.admit(10, 5):
            clock.now += 0.01
    with admission.admit(10, 5), admission.admit(10, 5):
        pass


def test_a_quick_error_says_nothing_about_speed(admission: Admission, clock: Clock) -> None:
    """A refused sentence or a caller who left at once must not look like a stream that answers nothing."""
    busy(admission, clock, 1000)
    for how in (ValueError, asyncio.CancelledError):
        with pytest.raises(how):
            leave_by(how, admission.admit(10, 60), clock, after=1)
    assert admission.speed.tokens_per_second == pytest.approx(1000)


# -- a simulated stream ---------------------------------------------------------------------------------------

#: Tokens a second that it answers at most, and the seconds each of its batches takes besides.
CAPACITY, BATCH_SECONDS, BATCH_TOKENS = 2000.0, 0.01, 400
TOKENS, DEADLINE = 20, 2.0


@dataclass
class Outcome:
    """What became of the requests; `goodput` is tokens a second, answered in time."""

    goodput: float = 0.0
    answered: int = 0
    late: int = 0
    shed: int = 0
    most: int = 0
    left: int = 0


@dataclass
class Stream:
    """A worker that takes what queues, in order, up to a batch, and an open loop of callers; all in simulated time."""

    seconds: float = 15.0
    clock: Clock = field(default_factory=Clock)
    outcome: Outcome = field(default_factory=Outcome)
    _events: list[tuple[float, int, str]] = field(default_factory=list)
    _queue: deque[tuple[float, AbstractContextManager[None]]] = field(default_factory=deque)
    _batch: list[tuple[float, AbstractContextManager[None]]] = field(default_factory=list)

    def run(self, load: float) -> Outcome:
        """Offers `load` times what the stream can answer, for `seconds`."""
        admission = Admission(1_000_000, self.clock)
        for n, at in enumerate(self._arrivals(load * CAPACITY / TOKENS)):
            heapq.heappush(self._events, (at, n, "ask"))
        while self._events:
            self.clock.now, _, what = heapq.heappop(self._events)
            if what == "ask":
                self._ask(admission)
            else:
                self._answer()
            self.outcome.most = max(self.outcome.most, admission.in_flight)
            if not self._batch:
                self._begin()
        self.outcome.left = admission.in_flight
        return self.outcome

    def _arrivals(self, per_second: float) -> Iterator[float]:
        chance, at = random.Random(1), 0.0
        while (at := at + chance.expovariate(per_second)) < self.seconds:
            yield at

    def _ask(self, admission: Admission) -> None:
        place = admission.admit(TOKENS, DEADLINE)
        try:
            place.__enter__()
        except Problem:
            self.outcome.shed += 1
        else:
            self._queue.append((self.clock.now, place))

    def _begin(self) -> None:
        while self._queue and len(self._batch) < BATCH_TOKENS // TOKENS:
            asked, place = self._queue.popleft()
            if self.clock.now - asked > DEADLINE:  # its caller has gone, and the deadline header stops the work
                self.outcome.late += 1
                place.__exit__(TimeoutError, TimeoutError(), None)
            else:
                self._batch.append((asked, place))
        if self._batch:
            seconds = BATCH_SECONDS + len(self._batch) * TOKENS / CAPACITY
            heapq.heappush(self._events, (self.clock.now + seconds, -1, "answer"))

    def _answer(self) -> None:
        for asked, place in self._batch:
            place.__exit__(None, None, None)
            in_time = self.clock.now - asked <= DEADLINE
            self.outcome.answered += in_time
            self.outcome.late += not in_time
            if in_time and self.clock.now < self.seconds:
                self.outcome.goodput += TOKENS / self.seconds
        self._batch.clear()


@pytest.mark.parametrize("load", [2, 10])
def test_overload_takes_nothing_from_those_who_are_served(load: int) -> None:
    """At twice and ten times what it can do, at least 90 % of its best is answered in time, and hardly any in vain."""
    best = Stream().run(1.0).goodput
    outcome = Stream().run(load)
    assert outcome.goodput >= 0.9 * best
    assert outcome.late <= outcome.answered / 20  # of the first moments, when nobody knows its speed yet
    assert outcome.shed > outcome.answered * (load - 1) / 2
    assert outcome.most <= 1.5 * CAPACITY * DEADLINE  # bounded by what can be answered in time, not by the bound
    assert outcome.left == 0


@pytest.mark.parametrize("load", [0.05, 0.5, 0.8])
def test_within_its_means_nobody_is_refused(load: float) -> None:
    """An estimate that is too low would show as refusals without need."""
    outcome = Stream().run(load)
    assert (outcome.shed, outcome.late) == (0, 0)
