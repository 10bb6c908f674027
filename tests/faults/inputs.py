"""Input topics with holes in their offsets: compacted ones, and ones written in transactions."""

import random
import time
from pathlib import Path

from confluent_kafka import Producer

from tests.faults.scene import Outcome, Scene, Size
from tests.support.kafka import HasBrokers, configure, unique
from tests.support.stream import PATIENCE, encoded, wait_until

#: Records of one transaction at most.
TRANSACTION = 200
#: Records that share a key of the compacted topic.
SAME_KEY = 20
#: Keys enough to reach every partition.
SPREAD = 32
COMPACT = {
    "cleanup.policy": "compact",
    "segment.ms": "10",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "10",
}


def transactional(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Requests come in transactions, every third of them aborted, while workers are killed."""
    dice = random.Random(4)
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3) as scene:
        settings = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": unique("input"), "log_level": 0}
        producer = Producer(settings)
        producer.init_transactions(PATIENCE)
        worker, written, aborted = scene.start(), 0, 0
        for strike in range(1, size.strikes + 2):
            while written < size.records * strike // (size.strikes + 1):
                count, fails = dice.randint(1, TRANSACTION), dice.random() < 1 / 3
                producer.begin_transaction()
                for number in range(written, written + count):
                    producer.produce(scene.settings.topic_requests, encoded(number))
                producer.flush()
                producer.abort_transaction() if fails else producer.commit_transaction()
                written += count
                aborted += count * fails
            scene.sent = written - aborted
            if strike <= size.strikes:
                worker.kill()
                worker = scene.start()
                scene.recover()
        return _done(scene, delivery, f"{aborted} more were aborted, {size.strikes} kills, final lag 0")


def compacted(kafka: HasBrokers, folder: Path, size: Size, delivery: str) -> Outcome:
    """Requests lie in a topic that compaction has left full of holes, and workers are killed."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery, session_timeout=3) as scene:
        topic = scene.settings.topic_requests
        configure(kafka, topic, COMPACT)
        for number in range(size.records):
            scene.produce(encoded(number), key=f"key-{number // 2 % (size.records // SAME_KEY)}".encode())
        scene.flush()

        def clean() -> bool:
            for number in range(SPREAD):  # the open segment of a partition is never compacted
                scene.produce(encoded(scene.sent), key=f"last-{number}".encode())
            scene.flush()
            time.sleep(0.5)
            return sum(1 for _ in scene.stream.read(topic)) < size.records / 2

        wait_until(clean, f"{topic} is compacted")
        configure(kafka, topic, {"cleanup.policy": "delete"})  # from now on nothing that was answered disappears
        time.sleep(1)
        written, scene.sent = scene.sent, len(scene.stream.read(topic))
        worker = scene.start()
        for _ in range(size.strikes):
            scene.await_results(1)
            worker.kill()
            worker = scene.start()
            scene.recover()
        return _done(scene, delivery, f"of {written}, {size.strikes} kills, final lag 0")


def _done(scene: Scene, delivery: str, note: str) -> Outcome:
    scene.finish()
    found = scene.audit()
    assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
    return scene.outcome(found, note)
