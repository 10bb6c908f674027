"""The bridge's metrics, typed like `streams.observe.metrics`."""

from prometheus_client import Counter, Gauge, Histogram

from streams.observe.metrics import SECONDS, Metrics


class BridgeMetrics(Metrics):
    """One bridge's metrics, with those of the parts it shares with a worker: publisher and cache."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = Counter(
            "streams_http_requests",
            "Requests answered; 499 stands for callers who hung up.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "streams_http_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("streams_http_in_flight", "Requests that are not answered yet.", registry=self.registry)
        self.problems = Counter(
            "streams_http_problems",
            "Problems answered, by their kind: rate-limited and overloaded are what was shed.",
            ["kind"],
            registry=self.registry,
        )
        self.waiting = Gauge(
            "streams_http_waiting_tokens",
            "Tokens that wait for their answers, as admission counts.",
            registry=self.registry,
        )
        self.steps = Histogram(
            "streams_http_step_seconds",
            "Seconds of a request's slowest sentence in a step: queue, tokenise and embed in the worker, ask in all.",
            ["step"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.replies = Counter(
            "streams_replies",
            "Replies read: taken, repeated, unknown (a stranger's), unreadable; or kept for later.",
            ["outcome"],
            registry=self.registry,
        )
