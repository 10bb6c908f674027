"""Topics as `provision` makes them: names from the settings, and room for what has to fit."""

from dataclasses import dataclass

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from schemas.errors import BadBytes
from streams.dead_letters import DeadLetters
from streams.records import Headers
from streams.settings import Settings, load
from streams.topics import for_replies, specs


@dataclass(frozen=True)
class Consumed:
    """A request as it was read; its topic has the longest name Kafka allows."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    topic: str = "t" * 249
    partition: int = 2**31 - 1
    offset: int = 2**63 - 1
    timestamp: int = 2**63 - 1
    timestamp_type: int = 1


def batch_size(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Returns the bytes of a record alone in an uncompressed batch: what `max.message.bytes` limits."""
    batch = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=10**9
    )
    batch.append(0, None, key, value, list(headers))
    return len(batch.build())


LIMIT = 1_000_000


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        pytest.param(b"k", b"v" * (LIMIT - 200), [], id="value"),
        pytest.param(b"k" * (LIMIT - 200), None, [], id="key"),
        pytest.param(None, b"v", [("h", b"x" * 10)] * ((LIMIT - 200) // 13), id="headers"),
    ],
)
def test_the_dead_letter_of_the_largest_request_fits(key: bytes | None, value: bytes | None, headers: Headers) -> None:
    """With both header families, their longest message and stack trace, and long names, at every size of request."""
    settings = load(max_request_bytes=LIMIT)
    limits = sizes(settings)
    size = batch_size(key, value, headers)
    assert limits[settings.topic_requests] - 200 < size <= limits[settings.topic_requests]
    reason = BadBytes("m" * 100_000)
    reason.__cause__ = deep_error(200)
    letter = DeadLetters(settings.topic_dead_letters, "g" * 249).make(Consumed(key, value, headers), reason, 10**6)
    assert size < batch_size(letter.key, letter.value, letter.headers) <= limits[settings.topic_dead_letters]


def sizes(settings: Settings) -> dict[str, int]:
    """Returns the largest record of each topic that has a limit of its own."""
    config = {spec.name: spec.config.get("max.message.bytes") for spec in specs(settings)}
    return {name: int(size) for name, size in config.items() if size is not None}


def deep_error(depth: int) -> Exception:
    """Returns an exception with a long stack trace."""

    def fail(left: int) -> None:
        if not left:
            raise ValueError("deep")
        fail(left - 1)

    with pytest.raises(ValueError, match="deep") as caught:
        fail(depth)
    return caught.value


def test_every_topic_is_provisioned_once_as_the_settings_say() -> None:
    """Names, partitions and replication are settings; nobody's topic is forgotten."""
    settings = load(partitions=3, replication=2, topic_scores="scores.v2")
    found = specs(settings)
    assert [spec.name for spec in found] == [
        "sentence.requests",
        "sentence.requests.interactive",
        "sentence.requests.replay",
        "sentence.embeddings",
        "scores.v2",
        "sentence.scores.quarantine",
        "sentence.dead-letters",
        "sentence.replies",
        "sentence.replies.kept",
        "sentence.alerts",
        "sentence.training",
        "sentence.models",
    ]
    assert {spec.replication for spec in found} == {2}
    assert {spec.partitions for spec in found if spec.name != "sentence.models"} == {3}


def test_commands_about_models_are_kept_by_key_in_one_order() -> None:
    """The last state of each alias is never lost, and all workers read all commands in the same order."""
    (spec,) = [spec for spec in specs(load()) if spec.name == "sentence.models"]
    assert spec.partitions == 1
    assert spec.config["cleanup.policy"] == "compact"


def test_requests_and_dead_letters_are_kept_by_time_results_by_key() -> None:
    """A compacted request topic would lose what a replay needs; results keep the last of each key."""
    settings = load(retention_requests=60, retention_dead_letters=120, results_cleanup="compact,delete")
    config = {spec.name: spec.config for spec in specs(settings)}
    for name in (settings.topic_requests, settings.topic_interactive, settings.topic_replay):
        assert config[name]["cleanup.policy"] == "delete"
        assert config[name]["retention.ms"] == "60000"
    assert config[settings.topic_dead_letters]["cleanup.policy"] == "delete"
    assert config[settings.topic_dead_letters]["retention.ms"] == "120000"
    assert config[settings.topic_embeddings]["cleanup.policy"] == "compact,delete"
    assert config[settings.topic_scores]["cleanup.policy"] == "compact,delete"


def test_replies_are_kept_for_an_hour() -> None:
    """Whoever asked has long gone; segments end sooner, since Kafka deletes no open one."""
    settings = load()
    config = {spec.name: spec.config for spec in specs(settings)}
    for name in (settings.topic_replies, settings.topic_kept_replies):
        assert config[name]["cleanup.policy"] == "delete"
        assert config[name]["retention.ms"] == "3600000"
        assert int(config[name]["segment.ms"]) < 3_600_000


def test_replies_go_to_their_own_topics_only() -> None:
    """Ours and those that the settings add: never to a topic that a worker reads or publishes results on."""
    settings = load(topic_replies="answers", reply_topics=("theirs", "others"))
    assert for_replies(settings) == {"answers", settings.topic_kept_replies, "theirs", "others"}


def test_results_have_room_beside_their_request() -> None:
    """A result repeats text and metadata and adds a vector: of 4,096 floats, and then some. So does a reply."""
    settings = load()
    limits = sizes(settings)
    for topic in (settings.topic_embeddings, settings.topic_replies, settings.topic_kept_replies):
        assert limits[topic] - limits[settings.topic_requests] > 2 * 4 * 4096
