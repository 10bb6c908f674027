"""Continuous micro-batches: whenever a model thread is free it takes the best next batch of what is queued.

Nothing waits for a timer. An idle system adds no delay, and a busy one has enough queued to pick neighbours in
length, so that little of a batch is padding.
"""

import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from streams.lanes import Lane


class Queued(Protocol):
    """What the batcher needs to know of an item."""

    @property
    def size(self) -> int:
        """Its length in tokens, at least 1."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch."""
        ...

    @property
    def arrived(self) -> float:
        """When it came in, in monotonic seconds."""
        ...


T = TypeVar("T", bound=Queued)

#: Padding (tokens) worth paying to spare a row a batch of its own: about what starting a batch costs on a CPU.
WORTH_PADDING = 16


class _LaneQueue(Generic[T]):
    """One lane's items in two orders: by arrival (who is next) and by size (who fits to it)."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._arrivals: dict[int, tuple[int, int, T]] = {}  # serial -> entry; dicts keep the order of insertion
        self._sizes: list[tuple[int, int, T]] = []  # (size, serial, item), sorted
        self._serial = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def put(self, item: T) -> None:
        entry = (item.size, self._serial, item)
        self._arrivals[self._serial] = entry
        if not item.alone:  # else it is nobody's neighbour
            insort(self._sizes, entry, key=itemgetter(0, 1))
        self._serial += 1

    def due(self) -> float:
        """When the oldest item should be served at the latest, in monotonic seconds."""
        return next(iter(self._arrivals.values()))[2].arrived + self.patience

    def take(self, budget: int) -> list[T]:
        """Removes the oldest item and its nearest neighbours in size, within `budget` tokens padding included."""
        oldest = next(iter(self._arrivals.values()))
        if oldest[2].alone:
            del self._arrivals[oldest[1]]
            return [oldest[2]]
        low, high = _spread(self._sizes, bisect_left(self._sizes, oldest[:2], key=itemgetter(0, 1)), budget)
        chosen = self._sizes[low:high]
        del self._sizes[low:high]
        for entry in chosen:
            del self._arrivals[entry[1]]
        return [entry[2] for entry in chosen]

    def clear(self) -> None:
        self._arrivals.clear()
        self._sizes.clear()

    def tokens(self) -> int:
        return sum(entry[0] for entry in self._arrivals.values())


def _spread(sizes: Sequence[tuple[int, int, T]], start: int, budget: int) -> tuple[int, int]:
    """Widens the slice around `start` to the cheaper side until the budget or the worth of padding is reached."""
    low, high = start, start + 1
    longest = sizes[start][0]
    while True:
        rows = high - low
        shorter = longest - sizes[low - 1][0] if low else WORTH_PADDING + 1
        longer = (sizes[high][0] - longest) * rows if high < len(sizes) else WORTH_PADDING + 1
        if min(shorter, longer) > WORTH_PADDING:
            return low, high
        grown = longest if shorter <= longer else sizes[high][0]
        if grown * (rows + 1) > budget:
            return low, high
        if shorter <= longer:
            low -= 1
        else:
            high, longest = high + 1, grown


class Batcher(Generic[T]):
    """The queue in front of the model: thread-safe, one lane's items a batch, `take` waits for work.

    The lane whose oldest item is due first is served; an urgent lane has no patience, so it goes first until
    another's patience is used up.
    """

    def __init__(self, lanes: Iterable[Lane], budget: int) -> None:
        """`budget` is tokens a batch, padding included; an item longer than it makes a batch of its own."""
        self.budget = budget
        self._queues: dict[str, _LaneQueue[T]] = {lane.topic: _LaneQueue(lane.patience) for lane in lanes}
        self._changed = threading.Condition()
        self._closed = False
        self._reserved: T | None = None  # the only item that is handed out at present
        self._ready = False  # whether it was put
        self.busy = 0  # batches that were taken and are not done

    def put(self, topic: str, items: Iterable[T]) -> None:
        """Queues items of the lane that `topic` feeds."""
        queue = self._queues[topic]
        with self._changed:
            for item in items:
                if item is self._reserved:
                    self._ready = True
                else:
                    queue.put(item)
            self._changed.notify_all()

    def take(self) -> list[T] | None:
        """Waits for work and removes the best next batch; None once the batcher is closed.

        Whoever takes a batch owes a `done`.
        """
        with self._changed:
            while not self._closed:
                if batch := self._next():
                    self.busy += 1
                    return batch
                self._changed.wait()
            return None

    def _next(self) -> list[T] | None:
        if self._reserved is not None:
            batch = [self._reserved] if self._ready else None
            self._ready = False
            return batch
        waiting = [queue for queue in self._queues.values() if len(queue)]
        return min(waiting, key=_LaneQueue.due).take(self.budget) if waiting else None

    def reserve(self, item: T) -> bool:
        """Hands out nothing but this item, once it is put; returns whether all that was taken before is done."""
        with self._changed:
            self._reserved = item
            return not self.busy

    def free(self) -> None:
        """Hands out everything again."""
        with self._changed:
            self._reserved, self._ready = None, False
            self._changed.notify_all()

    def done(self) -> None:
        """Notes that a batch that was taken is finished."""
        with self._changed:
            self.busy -= 1

    def clear(self) -> None:
        """Forgets what is queued; batches that were taken go on."""
        with self._changed:
            self._ready = False
            for queue in self._queues.values():
                queue.clear()

    def close(self) -> None:
        """Lets every `take` return None; what is queued is never taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def depth(self, topic: str) -> tuple[int, int]:
        """Returns how many items of a lane are queued, and their tokens."""
        with self._changed:
            return len(self._queues[topic]), self._queues[topic].tokens()
