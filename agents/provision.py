"""`sentence-streams provision`: makes the stream's topics on the broker, or says what it would do."""

from collections.abc import Sequence
from dataclasses import asdict

from confluent_kafka.admin import AdminClient

from agents.clients import broker
from agents.console import print_json, table
from streams.brokers.admin import CannotShrink, Provisioned, TopicSpec, TopicState, describe, provision
from streams.settings import Settings
from streams.topics import specs


def run(settings: Settings, *, dry_run: bool, as_json: bool) -> int:
    """Makes the topics and prints what was done to each.

    Raises CannotShrink before anything is changed, ProvisioningFailed, BrokerUnreachable or BrokerRefused.
    """
    admin, wanted = broker(settings), specs(settings)
    done = plan(admin, wanted) if dry_run else provision(admin, wanted)
    if as_json:
        print_json([asdict(item) for item in done])
    else:
        table(("topic", "would be" if dry_run else "done"), [_row(item) for item in done])
    return 0


def plan(admin: AdminClient, wanted: Sequence[TopicSpec]) -> list[Provisioned]:
    """Returns what `provision` would do to each topic, and does nothing; raises CannotShrink."""
    states = describe(admin, [spec.name for spec in wanted])
    return [difference(spec, states[spec.name]) for spec in wanted]


def difference(spec: TopicSpec, state: TopicState | None) -> Provisioned:
    """Returns what `provision` would do to one topic; raises CannotShrink."""
    if state is None:
        return Provisioned(spec.name, created=True)
    if not state.config:  # the embedded broker decides on everything itself
        return Provisioned(spec.name)
    if state.partitions > spec.partitions:
        raise CannotShrink(spec.name, state.partitions, spec.partitions)
    changed = {
        name: (state.config.get(name), value) for name, value in spec.config.items() if state.config.get(name) != value
    }
    return Provisioned(
        spec.name,
        grown=(state.partitions, spec.partitions) if state.partitions < spec.partitions else None,
        changed=changed,
        replication=(state.replication, spec.replication) if state.replication != spec.replication else None,
    )


def _row(item: Provisioned) -> tuple[str, str]:
    topic, _, did = str(item).partition(": ")
    return topic, did
