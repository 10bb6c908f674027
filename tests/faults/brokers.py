"""Faults of brokers and of the network to them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.scene import MB, Outcome, Scene, Size, memory, outlast, peak
from tests.support.java import free_ports
from tests.support.kafka import Kafka, KafkaCluster, configure, server_properties
from tests.support.proxy import Proxy
from tests.support.stream import Program

#: Seconds within which there must be results again once a fault is over.
HEALING = 60.0
#: Bytes by which a worker may grow while it cannot publish.
GROWTH = 256 * MB
#: Dead letters in front of what cannot be written.
BAD = 10
OUTPUTS = ("topic_embeddings", "topic_dead_letters")


def restarted(kafka: Kafka, folder: Path, size: Size, delivery: str) -> Outcome:
    """The only broker is killed (SIGKILL) and stays away for a while."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start()
        for _ in range(size.strikes):
            with scene.flood(size.records):
                scene.await_results(1)
                kafka.kill()
                outlast(worker, size.seconds)
                kafka.start()
                scene.recover(HEALING)
        return _done(scene, worker, delivery, f"{size.strikes} kills, away {size.seconds:g} s each")


def frozen(kafka: Kafka, folder: Path, size: Size, delivery: str) -> Outcome:
    """The only broker is frozen (SIGSTOP): connections stay open and nothing answers."""
    with Scene(kafka.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start()
        for _ in range(size.strikes):
            with scene.flood(size.records):
                scene.await_results(1)
                kafka.pause()
                try:
                    outlast(worker, size.seconds)
                finally:
                    kafka.resume()
                scene.recover(HEALING)
        return _done(scene, worker, delivery, f"{size.strikes} times {size.seconds:g} s")


def one_of_three(cluster: KafkaCluster, folder: Path, size: Size, delivery: str) -> Outcome:
    """Each of three brokers in turn is killed under load, while the others stay."""
    with Scene(cluster.bootstrap_servers, folder, delivery=delivery, replication=3) as scene:
        worker = scene.start()
        for strike in range(size.strikes):
            broker = cluster.brokers[strike % 3]
            with scene.flood(size.records):
                scene.await_results(1)
                broker.kill()
                scene.recover(HEALING)
                outlast(worker, size.seconds)
                broker.start()
        return _done(scene, worker, delivery, f"{size.strikes} kills")


def refusing(
    cluster: KafkaCluster, folder: Path, size: Size, delivery: str, topics: Sequence[str] = OUTPUTS
) -> Outcome:
    """The topics of results or dead letters take no writes: they want three replicas, and one broker is away."""
    with Scene(cluster.bootstrap_servers, folder, delivery=delivery, replication=3) as scene:
        for topic in topics:
            configure(cluster, getattr(scene.settings, topic), {"min.insync.replicas": "3"})
        worker = scene.start()
        scene.send(100)
        scene.await_results(100)
        before = memory(worker)
        cluster.brokers[2].kill()
        try:
            for _ in range(BAD):
                scene.produce(b"no record at all")
            scene.send(size.records)
            outlast(worker, size.seconds)
            # Only then what is done: the reader may be behind, and a commit is not.
            committed = scene.sent - (scene.lag() or 0)
            time.sleep(2)
            done, grown = scene.watch.count, peak(worker) - before
        finally:
            cluster.brokers[2].start()
        scene.recover(HEALING)
        assert committed <= done, f"{committed} are committed, and only {done} have their result"
        assert grown < GROWTH, f"the worker grew by {grown / MB:.0f} MB"
        note = f"{size.seconds:g} s, {committed} committed, {done} done, grew by {grown / MB:.0f} MB"
        return _done(scene, worker, delivery, note)


def cut_off(kafka: Kafka, folder: Path, size: Size, delivery: str) -> Outcome:
    """Nothing gets through between worker and broker for a while; then the connections are gone."""
    with proxied(folder) as (broker, proxy), Scene(broker.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start(bootstrap_servers=proxy.address)
        for _ in range(size.strikes):
            with scene.flood(size.records):
                scene.await_results(1)
                proxy.cut()
                outlast(worker, size.seconds)
                proxy.heal()
                scene.recover(HEALING)
        return _done(scene, worker, delivery, f"{size.strikes} times {size.seconds:g} s")


def slowed(kafka: Kafka, folder: Path, size: Size, delivery: str) -> Outcome:
    """The network to the broker has 100 ms in each direction and 3 Mbit/s."""
    with proxied(folder) as (broker, proxy), Scene(broker.bootstrap_servers, folder, delivery=delivery) as scene:
        worker = scene.start(bootstrap_servers=proxy.address)
        scene.send(100)
        scene.await_results(100)
        before = memory(worker)
        proxy.slow(delay=0.1, rate=3_000_000 / 8)
        scene.send(size.records)
        scene.recover(HEALING)
        scene.finish()
        grown = peak(worker) - before
        assert grown < GROWTH, f"the worker grew by {grown / MB:.0f} MB"
        return _done(scene, worker, delivery, f"100 ms each way, 3 Mbit/s, grew by {grown / MB:.0f} MB")


def _done(scene: Scene, worker: Program, delivery: str, note: str) -> Outcome:
    scene.finish()
    found = scene.audit()
    assert worker.running, "the worker did not survive"
    assert delivery == "at_least_once" or found.repeated == 0, f"{found.repeated} came twice"
    return scene.outcome(found, note)


@contextmanager
def proxied(folder: Path) -> Iterator[tuple[Kafka, Proxy]]:
    """A broker of its own with two addresses: one that is direct, and one behind a proxy."""
    port, inner, controller = free_ports(3)
    with Proxy(inner) as proxy:
        properties = server_properties(folder / "broker", 1, port, controller, f"1@127.0.0.1:{controller}")
        more = {
            "listeners": f"PROXIED://127.0.0.1:{inner}",
            "advertised.listeners": f"PROXIED://{proxy.address}",
            "listener.security.protocol.map": "PROXIED:PLAINTEXT",
        }
        broker = Kafka(folder / "broker", port, properties | {key: f"{properties[key]},{more[key]}" for key in more})
        try:
            broker.start()
            yield broker, proxy
        finally:
            broker.stop()
