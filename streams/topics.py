"""The topics of the stream: what each is called, and how `provision` makes it."""

from streams.brokers.admin import TopicSpec
from streams.lanes import PATIENCE, Lane, LaneName
from streams.settings import Settings

#: Room for both header families of a dead letter (capped stack traces and messages included).
DEAD_LETTER_HEADROOM = 64 * 1024
#: A result repeats the text and metadata of its request, and adds a vector (up to 4,096 floats) and scores.
RESULT_HEADROOM = 64 * 1024
#: Milliseconds that replies are kept: whoever asked has long gone. A segment must end for what is in it to leave.
REPLY_RETENTION, REPLY_SEGMENT = 60 * 60 * 1000, 10 * 60 * 1000

#: Milliseconds that alerts are kept.
ALERT_RETENTION = 30 * 24 * 60 * 60 * 1000

#: What every worker reads to its end as it starts: one partition, so that all see the same order, kept small.
MODELS = {"cleanup.policy": "compact", "segment.ms": str(24 * 60 * 60 * 1000), "min.cleanable.dirty.ratio": "0.1"}


def lanes(settings: Settings) -> tuple[Lane, ...]:
    """Returns the lanes this worker serves, most urgent first."""
    topics = {
        LaneName.INTERACTIVE: settings.topic_interactive,
        LaneName.BULK: settings.topic_requests,
        LaneName.REPLAY: settings.topic_replay,
    }
    return tuple(Lane(name, topics[name], patience) for name, patience in PATIENCE.items() if name in settings.lanes)


def for_replies(settings: Settings) -> frozenset[str]:
    """Returns the topics that requests may name for their replies."""
    return frozenset({settings.topic_replies, settings.topic_kept_replies, *settings.reply_topics})


def specs(settings: Settings) -> list[TopicSpec]:
    """Returns what every topic of the stream should look like on the broker."""
    requests = {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.retention_requests * 1000),
        "max.message.bytes": str(settings.max_request_bytes),
    }
    results = {
        "cleanup.policy": settings.results_cleanup,
        "retention.ms": str(settings.retention_results * 1000),
        "max.message.bytes": str(settings.max_request_bytes + RESULT_HEADROOM),
    }
    replies = {
        "cleanup.policy": "delete",
        "retention.ms": str(REPLY_RETENTION),
        "segment.ms": str(REPLY_SEGMENT),
        "max.message.bytes": str(settings.max_request_bytes + RESULT_HEADROOM),
    }
    dead_letters = {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.retention_dead_letters * 1000),
        "max.message.bytes": str(settings.max_request_bytes + DEAD_LETTER_HEADROOM),
    }
    alerts = {"cleanup.policy": "delete", "retention.ms": str(ALERT_RETENTION)}
    configs = {
        settings.topic_requests: requests,
        settings.topic_interactive: requests,
        settings.topic_replay: requests,
        settings.topic_embeddings: results,
        settings.topic_scores: results,
        settings.topic_quarantine: results,
        settings.topic_dead_letters: dead_letters,
        settings.topic_replies: replies,
        settings.topic_kept_replies: replies,
        settings.topic_alerts: alerts,
        settings.topic_training: requests,
    }
    found = [TopicSpec(name, settings.partitions, settings.replication, config) for name, config in configs.items()]
    return [*found, TopicSpec(settings.topic_models, 1, settings.replication, MODELS)]
