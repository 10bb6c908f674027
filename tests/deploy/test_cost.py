"""docs/cost.md says what its sheet computes."""

import pytest

from benchmarks.cost import MACHINES, MILLION, PAGE, RATES, STANDING, month, per_million, written

MACHINE = MACHINES[0]


def test_the_page_is_what_the_sheet_computes() -> None:
    """Whoever changes a rate or a price renews the page: python -m benchmarks.cost --write."""
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page


def test_a_million_costs_what_its_seconds_cost() -> None:
    """By hand: 90 busy processors do 9,000 sentences a second in all, so 111 seconds of one dollar an hour."""
    assert per_million(1.0, 100, 100.0) == pytest.approx(MILLION / 9_000 / 3600)


def test_much_costs_in_proportion() -> None:
    """A huge month is its sentences, embedded and scored."""
    each = sum(per_million(MACHINE.hour, MACHINE.processors, rate) for rate in (RATES.worker, RATES.scorer))
    assert month(MACHINE, 1_000_000 * MILLION, MACHINE.hour) == pytest.approx(1_000_000 * each, rel=0.01)


def test_zero_costs_no_more_than_the_scorer_while_nothing_comes() -> None:
    """Without it, an empty month costs all that always runs."""
    always, to_zero = (month(MACHINE, 0, MACHINE.hour, to_zero=zero) for zero in (False, True))
    assert to_zero == pytest.approx(always * STANDING["scorer"] / sum(STANDING.values()))
