"""The batcher: nothing lost, the budget kept, nobody starves, little padding."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.batcher import Batcher
from streams.lanes import Lane, LaneName

BULK = Lane(LaneName.BULK, "bulk", 2.0)
URGENT = Lane(LaneName.INTERACTIVE, "urgent", 0.0)
LANES = (URGENT, BULK)


@dataclass(frozen=True)
class Piece:
    """An item of `size` tokens; `name` tells it from its like."""

    name: int
    size: int
    arrived: float = 0.0
    topic: str = "bulk"
    alone: bool = False


def pieces(sizes: Sequence[int], topic: str = "bulk") -> list[Piece]:
    return [Piece(name, size, float(name), topic) for name, size in enumerate(sizes)]


def take_all(batcher: Batcher[Piece]) -> list[list[Piece]]:
    """Takes and finishes batches until nothing is queued."""
    batches = []
    while any(batcher.depth(lane.topic)[0] for lane in LANES):
        batch = batcher.take()
        assert batch is not None
        batcher.done()
        batches.append(batch)
    return batches


def padded(batch: Sequence[Piece]) -> int:
    return len(batch) * max(piece.size for piece in batch)


sizes = st.lists(st.integers(1, 300), max_size=80)


@given(sizes, sizes, st.integers(1, 600))
def test_every_item_comes_out_once_and_the_budget_holds(bulk: list[int], urgent: list[int], budget: int) -> None:
    """Batches partition what was put in; each is of one lane and within the budget, or one over-long item alone."""
    batcher: Batcher[Piece] = Batcher(LANES, budget)
    queued = pieces(bulk) + pieces(urgent, "urgent")
    for lane in LANES:
        batcher.put(lane.topic, [piece for piece in queued if piece.topic == lane.topic])
    batches = take_all(batcher)
    assert Counter(itertools.chain(*batches)) == Counter(queued)
    for batch in batches:
        assert len({piece.topic for piece in batch}) == 1
        assert len(batch) == 1 or padded(batch) <= budget


@given(st.lists(st.tuples(st.sampled_from(["bulk", "urgent"]), st.integers(1, 100)), max_size=60), st.data())
def test_the_record_that_is_due_first_is_always_served(arrivals: list[tuple[str, int]], data: st.DataObject) -> None:
    """However puts and takes alternate, a batch holds the oldest item of the lane whose oldest is due first."""
    patience = {lane.topic: lane.patience for lane in LANES}
    batcher: Batcher[Piece] = Batcher(LANES, 200)
    waiting: dict[str, list[Piece]] = {"bulk": [], "urgent": []}
    for name, (topic, size) in enumerate(arrivals):
        piece = Piece(name, size, name * 0.3, topic)
        batcher.put(topic, [piece])
        waiting[topic].append(piece)
        if data.draw(st.booleans()):
            batch = batcher.take()
            assert batch is not None
            first = min(
                (queue[0] for queue in waiting.values() if queue),
                key=lambda piece: piece.arrived + patience[piece.topic],
            )
            assert first in batch
            for taken in batch:
                waiting[taken.topic].remove(taken)


def test_an_urgent_flood_does_not_starve_the_patient() -> None:
    """Bulk waits behind urgent records until its patience is used up, and no longer."""
    batcher: Batcher[Piece] = Batcher(LANES, 1)  # a batch is one record
    batcher.put("bulk", [Piece(0, 1, 10.0)])
    batcher.put("urgent", [Piece(n, 1, 9.5 + n, "urgent") for n in range(1, 6)])  # one a second
    assert [batch[0].name for batch in take_all(batcher)] == [1, 2, 0, 3, 4, 5]


def test_a_backlog_of_mixed_lengths_is_hardly_padded() -> None:
    """With enough queued, neighbours in length share a batch: below 5 % padding, where arrival order has over 100 %."""
    lengths = random.Random(7)
    queued = pieces([min(256, int(lengths.lognormvariate(3.2, 0.7)) + 1) for _ in range(2000)])
    real = sum(piece.size for piece in queued)
    batcher: Batcher[Piece] = Batcher(LANES, 1024)
    batcher.put("bulk", queued)
    assert sum(map(padded, take_all(batcher))) < 1.05 * real
    assert sum(padded(queued[start : start + 32]) for start in range(0, 2000, 32)) > 2 * real


def test_few_records_of_unlike_length_still_share_a_batch_where_it_is_cheap() -> None:
    """A row that costs little padding is not worth a batch of its own; one that costs much is."""
    batcher: Batcher[Piece] = Batcher(LANES, 1000)
    batcher.put("bulk", pieces([10, 12, 250]))
    assert [sorted(piece.size for piece in batch) for batch in take_all(batcher)] == [[10, 12], [250]]


def test_depth_counts_items_and_tokens_of_a_lane() -> None:
    """What is queued is told by lane, and goes down as it is taken."""
    batcher: Batcher[Piece] = Batcher(LANES, 100)
    batcher.put("bulk", pieces([3, 4]))
    assert batcher.depth("bulk") == (2, 7)
    assert batcher.depth("urgent") == (0, 0)
    batcher.take()
    assert batcher.depth("bulk") == (0, 0)


def test_clear_forgets_what_is_queued_but_not_what_was_taken() -> None:
    """After a clear the taken batch is still busy; what comes next is served as ever."""
    batcher: Batcher[Piece] = Batcher(LANES, 5)
    batcher.put("bulk", pieces([5, 5]))
    batcher.take()
    batcher.clear()
    assert batcher.depth("bulk") == (0, 0)
    assert batcher.busy == 1
    batcher.done()
    assert batcher.busy == 0
    batcher.put("bulk", [Piece(9, 5)])
    assert batcher.take() == [Piece(9, 5)]


def test_a_closed_batcher_gives_nothing_more() -> None:
    """Close wins over what is queued, and over a take that waits already."""
    batcher: Batcher[Piece] = Batcher(LANES, 5)
    answers: list[object] = []
    taker = threading.Thread(target=lambda: answers.append(batcher.take()))
    taker.start()
    batcher.close()
    taker.join(10)
    assert answers == [None]
    batcher.put("bulk", pieces([5]))
    assert batcher.take() is None
    assert batcher.busy == 0


def test_an_unknown_topic_is_an_error() -> None:
    """Items of a topic that feeds no lane have nowhere to go."""
    with pytest.raises(KeyError):
        Batcher[Piece](LANES, 5).put("other", pieces([1]))


def test_concurrent_takers_share_the_work_without_losing_or_repeating_any() -> None:
    """Four threads take while two put: each item is seen once, and nothing is busy at the end."""
    batcher: Batcher[Piece] = Batcher(LANES, 64)
    queued = [Piece(name, name % 50 + 1, 0.0, topic) for topic in ("bulk", "urgent") for name in range(1500)]
    seen: list[list[Piece]] = [[] for _ in range(4)]
    left = threading.Semaphore(0)

    def take(mine: list[Piece]) -> None:
        while (batch := batcher.take()) is not None:
            mine += batch
            batcher.done()
            left.release(len(batch))

    def put(topic: str) -> None:
        for start in range(0, 1500, 25):
            batcher.put(topic, [piece for piece in queued if piece.topic == topic][start : start + 25])

    threads = [threading.Thread(target=take, args=(mine,)) for mine in seen]
    threads += [threading.Thread(target=put, args=(lane.topic,)) for lane in LANES]
    for thread in threads:
        thread.start()
    for _ in queued:
        assert left.acquire(timeout=10)
    batcher.close()
    for thread in threads:
        thread.join(10)
    assert Counter(itertools.chain(*seen)) == Counter(queued)
    assert batcher.busy == 0


def test_a_piece_that_must_be_alone_shares_no_batch() -> None:
    """However well its neighbours would fit; and its neighbours are batched without it."""
    batcher: Batcher[Piece] = Batcher([Lane(LaneName.BULK, "bulk", 0.0)], 1000)
    batcher.put("bulk", [Piece(0, 5), Piece(1, 5, 1.0, alone=True), Piece(2, 5, 2.0)])
    batches = [[piece.name for piece in batcher.take() or ()] for _ in range(2)]
    assert batches == [[0, 2], [1]]
    assert batcher.depth("bulk") == (0, 0)


def test_while_one_is_reserved_nothing_else_is_handed_out() -> None:
    """Not before it is put, and not behind it; afterwards everything is there that was put meanwhile."""
    batcher: Batcher[Piece] = Batcher(LANES, 1000)
    reserved, others = Piece(0, 5), pieces([1, 2], "urgent")
    taken: Queue[list[Piece] | None] = Queue()
    taker = threading.Thread(target=lambda: [taken.put(batch) for batch in iter(batcher.take, None)])
    assert batcher.reserve(reserved)
    taker.start()
    batcher.put("urgent", others)
    batcher.put("bulk", [reserved])
    assert taken.get(timeout=10) == [reserved]
    with pytest.raises(Empty):
        taken.get(timeout=0.05)
    assert not batcher.reserve(reserved), "it is still out"
    batcher.done()
    assert batcher.reserve(reserved)
    batcher.free()
    assert taken.get(timeout=10) == others
    batcher.close()
    taker.join(10)


def test_what_was_taken_before_is_waited_for() -> None:
    """A reservation holds back what is queued, and says when nothing is out any more."""
    batcher: Batcher[Piece] = Batcher(LANES, 5)
    batcher.put("bulk", pieces([5, 5]))
    batcher.take()
    assert not batcher.reserve(Piece(9, 1))
    batcher.done()
    assert batcher.reserve(Piece(9, 1))
    assert batcher.depth("bulk") == (1, 5)


def test_a_cleared_reservation_hands_out_nothing() -> None:
    """What was reserved and put is forgotten like everything else."""
    batcher: Batcher[Piece] = Batcher(LANES, 5)
    reserved = Piece(0, 5)
    batcher.reserve(reserved)
    batcher.put("bulk", [reserved])
    batcher.clear()
    batcher.free()
    batcher.put("bulk", [Piece(1, 1)])
    assert batcher.take() == [Piece(1, 1)]
