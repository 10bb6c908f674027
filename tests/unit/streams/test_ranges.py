"""Bounds and ranges, without a broker."""

import pytest

from streams.ranges import BEGINNING, END, Bound, Range, remaining, size
from streams.records import TopicPartition

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("beginning", BEGINNING),
        ("end", END),
        ("0", Bound(offset=0)),
        ("99999999999", Bound(offset=99_999_999_999)),
        ("1700000000000", Bound(time=1_700_000_000_000)),
        ("2023-11-14T22:13:20Z", Bound(time=1_700_000_000_000)),
        ("2023-11-14 22:13:20", Bound(time=1_700_000_000_000)),
        ("2023-11-15T00:13:20+02:00", Bound(time=1_700_000_000_000)),
        ("2023-11-14", Bound(time=1_699_920_000_000)),
    ],
)
def test_bounds_are_read_as_people_write_them(text: str, bound: Bound) -> None:
    """Edges, offsets, epoch milliseconds and ISO times are told apart; a time without a zone is UTC."""
    assert Bound.parse(text) == bound
    assert Bound.parse(str(bound)) == bound


@pytest.mark.parametrize("text", ["", "-1", "latest", "1.5", "٣", "yesterday", "9" * 15])
def test_nonsense_is_no_bound(text: str) -> None:
    """What is neither of these raises ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        Bound.parse(text)


def test_what_remains_lies_behind_the_checkpoint() -> None:
    """A checkpoint before a range does not widen it, one behind it leaves nothing."""
    ranges = {ONE: Range(10, 20), TWO: Range(0, 5)}
    assert remaining(ranges, {}) == ranges
    assert remaining(ranges, {ONE: 5, TWO: 5}) == {ONE: Range(10, 20)}
    assert remaining(ranges, {ONE: 19, TWO: 3}) == {ONE: Range(19, 20), TWO: Range(3, 5)}
    assert size(ranges) == 15
