"""The watermark against an oracle that looks at every offset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.watermark import Watermark


class Oracle:
    """The definition, word by word: the lowest offset that is not finished, or the end of what is known."""

    def __init__(self, position: int) -> None:
        self.added: list[int] = []
        self.finished: set[int] = set()
        self.end = position

    @property
    def open(self) -> list[int]:
        return [offset for offset in self.added if offset not in self.finished]

    @property
    def position(self) -> int:
        return min(self.open, default=self.end)


starts = st.integers(0, 3) | st.integers(10**12, 10**12 + 3)
gaps = st.integers(0, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), gaps),
        st.tuples(st.just("reach"), st.integers(-3, 5)),
        st.tuples(st.just("complete"), st.integers(-2, 30)),
    ),
    max_size=60,
)


@given(starts, steps)
def test_it_is_the_lowest_unfinished_offset(start: int, steps: list[tuple[str, int]]) -> None:
    """Whatever is added, skipped and completed, in any order, repeated, or never heard of."""
    watermark, oracle = Watermark(start), Oracle(start)
    for step, number in steps:
        if step == "add":
            offset = oracle.end + number
            watermark.add(offset)
            oracle.added.append(offset)
            oracle.end = offset + 1
        elif step == "reach":
            watermark.reach(oracle.end + number)
            oracle.end = max(oracle.end, oracle.end + number)
        else:
            watermark.complete(start + number)
            if start + number in oracle.added:
                oracle.finished.add(start + number)
        assert watermark.position == oracle.position
        assert watermark.pending == len(oracle.open)


@given(st.permutations(range(12)), st.data())
def test_it_never_passes_a_hole_nor_goes_back(order: list[int], data: st.DataObject) -> None:
    """In every order of completion, repeats among them, each step keeps to what is finished so far."""
    watermark = Watermark(0)
    for offset in range(12):
        watermark.add(offset)
    done: set[int] = set()
    for offset in order:
        before = watermark.position
        watermark.complete(offset)
        done.add(offset)
        watermark.complete(data.draw(st.sampled_from(sorted(done))))
        assert set(range(watermark.position)) <= done
        assert watermark.position >= before
    assert watermark.position == 12


def test_a_fresh_one_stands_where_it_starts() -> None:
    """Nothing added: the position is the committed one, 0 on a new topic."""
    assert Watermark(0).position == 0
    assert Watermark(7).position == 7


def test_offset_zero_counts() -> None:
    """The first record of a partition holds the position at 0 until it is finished."""
    watermark = Watermark(0)
    watermark.add(0)
    assert watermark.position == 0
    watermark.complete(0)
    assert watermark.position == 1


def test_offsets_must_rise() -> None:
    """A record that comes twice, or below what was reached, is a bug upstream and is said to be one."""
    watermark = Watermark(5)
    with pytest.raises(ValueError, match="offset 4 was added after 4"):
        watermark.add(4)
    watermark.add(5)
    with pytest.raises(ValueError, match="offset 5"):
        watermark.add(5)
    watermark.reach(9)
    with pytest.raises(ValueError, match="offset 8"):
        watermark.add(8)
    assert watermark.position == 5


def test_a_marker_behind_open_records_waits_for_them() -> None:
    """Reaching past the log's end does not commit over what is unfinished, and shows once it is."""
    watermark = Watermark(0)
    watermark.add(0)
    watermark.reach(2)
    assert watermark.position == 0
    watermark.complete(0)
    assert watermark.position == 2
