"""`sentence-streams provision`: makes the stream's topics on the broker, or says what it would do."""

from dataclasses import asdict

from agents.clients import broker
from agents.console import print_json, table
from streams.brokers.admin import Provisioned, plan, provision
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


def _row(item: Provisioned) -> tuple[str, str]:
    topic, _, did = str(item).partition(": ")
    return topic, did
