"""Lanes: which a worker serves, and how urgent each is."""

from streams.lanes import LaneName
from streams.settings import load
from streams.topics import lanes


def test_lanes_come_most_urgent_first_whatever_the_order_of_the_setting() -> None:
    """Interactive before bulk before replay."""
    served = lanes(load(lanes=(LaneName.REPLAY, LaneName.BULK, LaneName.INTERACTIVE)))
    assert [lane.name for lane in served] == [LaneName.INTERACTIVE, LaneName.BULK, LaneName.REPLAY]
    patience = [lane.patience for lane in served]
    assert patience == sorted(patience)
    assert len(set(patience)) == 3


def test_a_worker_serves_only_the_lanes_it_was_given() -> None:
    """Each lane reads the topic that the settings name for it."""
    (replay,) = lanes(load(lanes="replay", topic_replay="again"))
    assert (replay.name, replay.topic) == (LaneName.REPLAY, "again")
    assert [lane.topic for lane in lanes(load())] == ["sentence.requests.interactive", "sentence.requests"]


def test_every_lane_has_a_topic_and_a_patience() -> None:
    """A new name without them would be a lane that nobody serves."""
    assert {lane.name for lane in lanes(load(lanes=tuple(LaneName)))} == set(LaneName)
