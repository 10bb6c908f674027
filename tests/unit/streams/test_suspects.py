"""What earlier processes leave in the metadata of a commit."""

import pytest

from streams.suspects import REACH, Suspicion


@pytest.mark.parametrize(
    "metadata", ["", "x", "suspect", "suspect 1 2", "suspect a 2 3", "suspect -1 2 3", "other 1 2 3"]
)
def test_metadata_that_is_not_ours_means_no_suspicion(metadata: str) -> None:
    """Other consumers write what they like there."""
    assert Suspicion.parse(metadata, 7) == Suspicion()


def test_what_is_committed_is_read_back() -> None:
    """One death can have any cause; after two without progress the records that were in hand are taken alone."""
    first = Suspicion.parse("", 100).taken_over()
    second = Suspicion.parse(first.metadata(), 100).taken_over()
    assert not first.covers(100)
    assert not second.covers(100)
    third = Suspicion.parse(second.metadata(), 100)
    assert (third.deaths, third.covers(100), third.covers(99 + REACH), third.covers(100 + REACH)) == (
        2, True, True, False,
    )  # fmt: skip


def test_tries_of_the_same_record_are_counted_over_deaths() -> None:
    """Another record starts at one again."""
    suspicion = Suspicion(deaths=1).taken_over().trying(5)
    assert (suspicion.offset, suspicion.times) == (5, 1)
    again = Suspicion.parse(suspicion.metadata(), 5).taken_over().trying(5)
    assert (again.deaths, again.times) == (3, 2)
    assert again.trying(6).times == 1
    assert again.trying(4) == Suspicion(3, 4, 1, again.until), "or a killer before it would never have a name"


def test_no_suspicion_commits_nothing() -> None:
    """The metadata of an ordinary commit is empty."""
    assert Suspicion().metadata() == ""
