"""Every metric of the product, typed: a wrong name fails the type check, not the dashboard."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.samples import Sample

from schemas.errors import Reject
from streams.lanes import Lane


class Finished(Protocol):
    """What the metrics read of a finished record; times are monotonic seconds."""

    lane: Lane
    refused: Reject | None
    arrived: float
    started: float
    settled: float

    @property
    def dead_letter(self) -> bool:
        """Whether it is in the dead-letter topic; only a refused record can be."""
        ...


#: Seconds; from one sentence on an idle system (milliseconds) to an outage that is waited out.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """One process's metrics, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, start: an alert counts the restarts
        self.records = Counter("streams_records", "Records acknowledged.", ["lane", "outcome"], registry=self.registry)
        self.dead_letters = Counter(
            "streams_dead_letters",
            "Records sent to the dead-letter topic.",
            ["stage", "reason"],
            registry=self.registry,
        )
        self.refusals = Counter(
            "streams_refusals",
            "Requests refused with a reply to their caller, and no dead letter.",
            ["stage", "reason"],
            registry=self.registry,
        )
        self.replies_dropped = Counter(
            "streams_replies_dropped", "Replies that could not be delivered.", ["reason"], registry=self.registry
        )
        self.braking = Gauge(
            "streams_dead_letter_brake",
            "Partitions that wait because too many dead letters came.",
            registry=self.registry,
        )
        self.batch_rows = Histogram(
            "streams_batch_rows", "Rows of a micro-batch.", ["stage"], buckets=ROWS, registry=self.registry
        )
        self.tokens = Counter(
            "streams_batch_tokens",
            "Tokens in micro-batches: of texts, and of padding.",
            ["stage", "kind"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "streams_stage_seconds",
            "Seconds a record's batch spent in a step: prepare, queue, run, publish; total from fetch to receipt.",
            ["stage", "step"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.lag = Gauge(
            "streams_lag_records",
            "Committed-to-end distance of an assigned partition.",
            ["lane", "partition"],
            registry=self.registry,
        )
        self.token_lag = Gauge(
            "streams_lag_tokens",
            "The lag in tokens, at the mean length seen so far.",
            ["lane", "partition"],
            registry=self.registry,
        )
        self.queued = Gauge("streams_queue_records", "Records waiting for the model.", ["lane"], registry=self.registry)
        self.queued_tokens = Gauge(
            "streams_queue_tokens", "Tokens waiting for the model.", ["lane"], registry=self.registry
        )
        self.commits = Counter("streams_commits", "Offset commits.", ["outcome"], registry=self.registry)
        self.publish_retries = Counter(
            "streams_publish_retries",
            "Tries to publish that failed and were repeated.",
            registry=self.registry,
        )
        self.rebalances = Counter("streams_rebalances", "Assignments received from the group.", registry=self.registry)
        self.cache_lookups = Counter(
            "streams_cache_lookups",
            "Vectors looked up, by layer (memory, redis): hit, miss, foreign (not ours or damaged), error, or skipped.",
            ["layer", "outcome"],
            registry=self.registry,
        )
        self.cache_writes = Counter(
            "streams_cache_writes",
            "Vectors written to a cache that is shared: stored, error, or skipped.",
            ["layer", "outcome"],
            registry=self.registry,
        )
        self.cache_bytes = Gauge(
            "streams_cache_bytes", "Bytes of the vectors that this process keeps.", registry=self.registry
        )
        self.score_windows = Counter(
            "streams_score_windows",
            "Windows of a scorer's scores: good, watch, or poor.",
            ["scorer", "version", "band"],
            registry=self.registry,
        )
        self.score_psi = Gauge(
            "streams_score_psi",
            "Population stability index of a scorer's last window: of scores, labels, vectors, tokens.",
            ["scorer", "version", "figure"],
            registry=self.registry,
        )
        self.score_label_share = Gauge(
            "streams_score_label_share",
            "Share of the last window's sentences that each label is the best of.",
            ["scorer", "version", "label"],
            registry=self.registry,
        )
        self.score_tokens = Gauge(
            "streams_score_tokens_mean",
            "Mean tokens of the last window's texts.",
            ["scorer", "version"],
            registry=self.registry,
        )
        self.score_truncated = Gauge(
            "streams_score_truncated_share",
            "Share of the last window's texts that were cut.",
            ["scorer", "version"],
            registry=self.registry,
        )
        self.scores_replaced = Counter(
            "streams_scores_replaced",
            "Scores that a fallback gave in place of the scorer.",
            ["scorer", "version"],
            registry=self.registry,
        )
        self.scorer_quarantined = Gauge(
            "streams_scorer_quarantined",
            "1 for a scorer whose scores are kept from subscribers until a person resumes it.",
            ["scorer"],
            registry=self.registry,
        )
        self.model = Gauge(
            "streams_model_info",
            "1 for the model that an alias stands for.",
            ["alias", "model", "revision", "digest", "precision"],
            registry=self.registry,
        )
        self.model_loads = Counter(
            "streams_model_loads", "Models loaded, and loads that failed.", ["model", "outcome"], registry=self.registry
        )
        self.shadow_records = Counter(
            "streams_shadow_records",
            "Sentences that a shadow embedded as well: good, broken (not finite), failed, or skipped.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.shadow_seconds = Histogram(
            "streams_shadow_seconds",
            "Seconds a shadow took for a batch, its tokens included.",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.shadow_scores = Counter(
            "streams_shadow_scores",
            "Scores of a shadow: agrees (the label that was answered), differs, broken (not finite) or failed.",
            ["scorer", "version", "outcome"],
            registry=self.registry,
        )
        self._serving: frozenset[tuple[str, ...]] = frozenset()

    def serving(self, models: Iterable[tuple[str, str, str, str, str]]) -> None:
        """Notes what is served: alias, and name, revision, digest and precision of its model."""
        now = frozenset(models)
        for gone in self._serving - now:
            self.model.remove(*gone)
        for each in now:
            self.model.labels(*each).set(1)
        self._serving = now

    def batch(self, stage: str, sizes: Sequence[int], seconds: float) -> None:
        """Notes one micro-batch: the tokens of each row, and how long the stage ran."""
        if not sizes:
            return
        real = sum(sizes)
        self.batch_rows.labels(stage).observe(len(sizes))
        self.tokens.labels(stage, "text").inc(real)
        self.tokens.labels(stage, "padding").inc(len(sizes) * max(sizes) - real)
        self.seconds.labels(stage, "run").observe(seconds)

    def finished(self, stage: str, head: Sequence[Finished], now: float) -> None:
        """Notes what one partition acknowledged together; its first record stands for the timings of all."""
        first, refused = head[0], [(item.refused, item.dead_letter) for item in head if item.refused]
        lane = first.lane.name
        self.records.labels(lane, "answered").inc(len(head) - len(refused))
        for reason, dead_letter in refused:
            self.records.labels(lane, "dead_letter" if dead_letter else "refused").inc()
            (self.dead_letters if dead_letter else self.refusals).labels(reason.stage, reason.reason).inc()
        self.seconds.labels(stage, "queue").observe(first.started - first.arrived)
        self.seconds.labels(stage, "publish").observe(now - first.settled)
        self.seconds.labels(stage, "total").observe(now - first.arrived)

    def mean_tokens(self, stage: str) -> float:
        """Returns the mean tokens of a record so far; 1 before the first."""
        rows = sum(sample.value for sample in self._samples(self.batch_rows, stage, "_sum"))
        tokens = sum(
            sample.value for sample in self._samples(self.tokens, stage, "_total") if sample.labels["kind"] == "text"
        )
        return tokens / rows if rows else 1.0

    def _samples(self, metric: Counter | Histogram, stage: str, suffix: str) -> Iterator[Sample]:
        return (
            sample
            for family in metric.collect()
            for sample in family.samples
            if sample.name.endswith(suffix) and sample.labels.get("stage") == stage
        )
