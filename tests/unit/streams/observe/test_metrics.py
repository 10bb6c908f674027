"""The figures an operator sees."""

from dataclasses import dataclass

import pytest

from schemas.errors import BadBytes, Reject, TextTooLong
from streams.lanes import Lane, LaneName
from streams.observe.metrics import Metrics

BULK = Lane(LaneName.BULK, "requests", 2.0)
URGENT = Lane(LaneName.INTERACTIVE, "urgent", 0.0)


@dataclass
class Done:
    """A finished record."""

    lane: Lane = BULK
    refused: Reject | None = None
    arrived: float = 100.0
    started: float = 100.5
    settled: float = 102.5
    told_alone: bool = False

    @property
    def dead_letter(self) -> bool:
        return self.refused is not None and not self.told_alone


@pytest.fixture
def metrics() -> Metrics:
    """Figures of one test."""
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_batch_counts_rows_tokens_and_padding(metrics: Metrics) -> None:
    """Three rows padded to the longest: 10 + 7 + 3 tokens of text, 3 + 7 of padding."""
    metrics.batch("embed", [10, 7, 3], 0.2)
    assert value(metrics, "streams_batch_rows_sum", stage="embed") == 3
    assert value(metrics, "streams_batch_tokens_total", stage="embed", kind="text") == 20
    assert value(metrics, "streams_batch_tokens_total", stage="embed", kind="padding") == 10
    assert value(metrics, "streams_stage_seconds_sum", stage="embed", step="run") == pytest.approx(0.2)


def test_a_batch_of_which_nothing_was_left_counts_nothing(metrics: Metrics) -> None:
    """All its records had expired."""
    metrics.batch("embed", [], 0.2)
    assert value(metrics, "streams_batch_rows_count", stage="embed") is None


def test_finished_records_are_counted_by_lane_outcome_and_reason(metrics: Metrics) -> None:
    """Each record has one outcome; a dead letter also has a stage and a reason."""
    metrics.finished("embed", [Done(), Done(refused=BadBytes("x")), Done()], 103.0)
    metrics.finished("embed", [Done(URGENT, TextTooLong("x")), Done(URGENT, TextTooLong("y"))], 103.0)
    assert value(metrics, "streams_records_total", lane="bulk", outcome="answered") == 2
    assert value(metrics, "streams_records_total", lane="bulk", outcome="dead_letter") == 1
    assert value(metrics, "streams_records_total", lane="interactive", outcome="dead_letter") == 2
    assert value(metrics, "streams_dead_letters_total", stage="decode", reason="bad-bytes") == 1
    assert value(metrics, "streams_dead_letters_total", stage="validate", reason="text-too-long") == 2


def test_refusals_that_only_a_caller_hears_of_are_no_dead_letters(metrics: Metrics) -> None:
    """They have an outcome and a count of their own."""
    metrics.finished("embed", [Done(), Done(refused=TextTooLong("x"), told_alone=True)], 103.0)
    assert value(metrics, "streams_records_total", lane="bulk", outcome="answered") == 1
    assert value(metrics, "streams_records_total", lane="bulk", outcome="refused") == 1
    assert value(metrics, "streams_refusals_total", stage="validate", reason="text-too-long") == 1
    assert value(metrics, "streams_dead_letters_total", stage="validate", reason="text-too-long") is None


def test_the_time_of_a_record_is_told_apart_by_step(metrics: Metrics) -> None:
    """Queued from 100.0 to 100.5, settled at 102.5, its receipt at 103.0."""
    metrics.finished("embed", [Done()], 103.0)
    seconds = {
        step: value(metrics, "streams_stage_seconds_sum", stage="embed", step=step)
        for step in ("queue", "publish", "total")
    }
    assert seconds == {"queue": 0.5, "publish": 0.5, "total": 3.0}


def test_mean_tokens_follow_the_batches_of_a_stage(metrics: Metrics) -> None:
    """The lag in tokens is estimated with it; before the first batch a record counts as one token."""
    assert metrics.mean_tokens("embed") == 1.0
    metrics.batch("embed", [10, 20], 0.1)
    metrics.batch("embed", [60], 0.1)
    metrics.batch("score", [1], 0.1)
    assert metrics.mean_tokens("embed") == 30.0
    assert metrics.mean_tokens("score") == 1.0


def test_every_name_has_the_prefix_and_help(metrics: Metrics) -> None:
    """Dashboards find all of them by `streams_`; what every process has keeps the name that everybody knows."""
    families = list(metrics.registry.collect())
    assert families
    assert all(family.name.startswith(("streams_", "process_")) and family.documentation for family in families)


def test_two_sets_of_metrics_know_nothing_of_each_other() -> None:
    """A worker and a scorer in one process do not share figures."""
    one, other = Metrics(), Metrics()
    one.rebalances.inc()
    assert value(one, "streams_rebalances_total") == 1
    assert value(other, "streams_rebalances_total") == 0
