"""The short form of the faults; `python -m tests.faults` runs the long one of all of them."""

from pathlib import Path

import pytest

from tests.faults.catalogue import ALL, Fault
from tests.support.kafka import Kafka, KafkaCluster


def ids(fault: Fault) -> str:
    return fault.name.replace(", ", "-").replace(" ", "-")


@pytest.mark.parametrize("fault", [fault for fault in ALL if not (fault.cluster or fault.only_long)], ids=ids)
def test_a_fault_loses_nothing(kafka: Kafka, tmp_path: Path, fault: Fault) -> None:
    """Every request has its answer or its dead letter, and nothing comes twice that must not."""
    print(fault.run(kafka, tmp_path, fault.short))


@pytest.mark.parametrize("fault", [fault for fault in ALL if fault.cluster and not fault.only_long], ids=ids)
def test_a_fault_of_three_brokers_loses_nothing(kafka_cluster: KafkaCluster, tmp_path: Path, fault: Fault) -> None:
    """The same where one of three brokers is at fault."""
    print(fault.run(kafka_cluster, tmp_path, fault.short))
