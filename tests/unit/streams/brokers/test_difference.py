"""What `provision --dry-run` expects to happen."""

import pytest

from streams.brokers.admin import CannotShrink, Provisioned, TopicSpec, TopicState, difference

SPEC = TopicSpec("t", 4, 2, {"retention.ms": "1000"})
CONFIG = {"retention.ms": "1000", "other": "x"}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Provisioned("t", created=True)),
        (TopicState("t", 4, 2, CONFIG), Provisioned("t")),
        (TopicState("t", 2, 2, CONFIG), Provisioned("t", grown=(2, 4))),
        (TopicState("t", 4, 2, {"retention.ms": "5"}), Provisioned("t", changed={"retention.ms": ("5", "1000")})),
        (TopicState("t", 4, 1, CONFIG), Provisioned("t", replication=(1, 2))),
        (TopicState("t", 9, 1, {}), Provisioned("t")),
    ],
)
def test_differences(state: TopicState | None, expected: Provisioned) -> None:
    """A topic is made, grown, configured or left alone; the embedded broker's always are left alone."""
    assert difference(SPEC, state) == expected


def test_shrinking_is_refused() -> None:
    """More partitions than wanted is an error, also when nothing would be done."""
    with pytest.raises(CannotShrink, match="topic t has 9 partitions, wanted 4"):
        difference(SPEC, TopicState("t", 9, 2, CONFIG))
