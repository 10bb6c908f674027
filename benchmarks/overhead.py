"""What moving a record costs, in microseconds of CPU: ours with an embedder that does nothing, beside others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.figures import Figure
from schemas.codec import Codec
from schemas.records import Sentence
from streams.brokers.admin import TopicSpec, provision

ROOT = Path(__file__).parents[1]
#: Bytes of an Embedding of 384 floats with a short text.
RESULT_BYTES = 2_000
#: Records that a program has answered before the count begins: imports, joins and first fetches are over.
WARM = 2_000
#: Seconds after which a program that makes no progress is given up.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Program:
    """A program that answers each record of SOURCE with one on TARGET."""

    name: str
    command: Sequence[str]
    #: Where its code is.
    root: Path = ROOT

    @classmethod
    def of(cls, name: str, *arguments: str) -> "Program":
        """The program `benchmarks/programs/NAME.py`."""
        return cls(name, (sys.executable, "-m", f"benchmarks.programs.{name}", *arguments))


OURS = Program.of("noop_worker")
PLAIN = Program.of("plain_aiokafka")
FAUST = Program.of("faust_agent", "worker", "-l", "error", "--without-web")


def cpu_per_record(program: Program, servers: str, records: int, folder: Path, partitions: int = 8) -> float:
    """Microseconds of CPU that a program needs for a record, over a backlog of so many."""
    tag = f"{program.name}-{time.monotonic_ns()}"
    source, target = f"{tag}-in", f"{tag}-out"
    provision(servers, [TopicSpec(name, partitions, 1, {}) for name in (source, target, f"{tag}-dead")])
    _fill(servers, source, records + WARM)
    environment = {
        "PYTHONPATH": str(program.root), "RESULT_BYTES": str(RESULT_BYTES),
        "SERVERS": servers, "SOURCE": source, "TARGET": target,
        "STREAMS_BOOTSTRAP_SERVERS": servers, "STREAMS_GROUP": tag, "STREAMS_LANES": "bulk",
        "STREAMS_TOPIC_REQUESTS": source, "STREAMS_TOPIC_EMBEDDINGS": target, "STREAMS_HEALTH_PORT": "0",
    }  # fmt: skip
    with (folder / f"{tag}.log").open("wb") as log:
        process = subprocess.Popen(program.command, env=os.environ | environment, stdout=log, stderr=log, cwd=folder)
        try:
            return _measured(process, servers, target, partitions, records)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _measured(process: "subprocess.Popen[bytes]", servers: str, target: str, partitions: int, records: int) -> float:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "benchmark", "fetch.wait.max.ms": 50, "log_level": 0})
    reader.assign([TopicPartition(target, number, OFFSET_BEGINNING) for number in range(partitions)])
    try:
        first = _await(reader, process, WARM)
        before = _cpu(process)
        last = _await(reader, process, WARM + records - first)
        return (_cpu(process) - before) / last * 1e6
    finally:
        reader.close()


def _await(reader: Consumer, process: "subprocess.Popen[bytes]", wanted: int) -> int:
    seen, progressed = 0, time.monotonic()
    while seen < wanted:
        if found := sum(message.error() is None for message in reader.consume(2_000, timeout=0.1)):
            seen, progressed = seen + found, time.monotonic()
        elif process.poll() is not None or time.monotonic() - progressed > PATIENCE:
            raise RuntimeError(f"{process.args!r}: {seen} of {wanted} records came out, exit code {process.poll()}")
    return seen


def _cpu(process: "subprocess.Popen[bytes]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def _fill(servers: str, topic: str, records: int) -> None:
    codec = Codec()
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": 2_000_000})
    for number in range(records):
        sentence = Sentence(id=f"s-{number}", text=f"This is sentence number {number} of a long backlog.")
        producer.produce(topic, codec.encode(sentence, topic))
    producer.flush()


def in_turn(
    programs: Sequence[Program], servers: str, records: int, rounds: int, folder: Path
) -> Mapping[str, list[float]]:
    """Microseconds of CPU a record of each program, round by round."""
    found: dict[str, list[float]] = {program.name: [] for program in programs}
    for _ in range(rounds):
        for program in programs:
            found[program.name].append(cpu_per_record(program, servers, records, folder))
    return found


def flatness(servers: str, records: int, rounds: int, folder: Path) -> list[Figure]:
    """What a record costs with a deep backlog against 10,000 records, and on 64 partitions against one."""
    deep, wide = [], []
    for _ in range(rounds):
        usual = cpu_per_record(OURS, servers, 10_000, folder)
        deep.append(cpu_per_record(OURS, servers, records, folder) / usual)
        few = cpu_per_record(OURS, servers, 10_000, folder, partitions=1)
        wide.append(cpu_per_record(OURS, servers, 10_000, folder, partitions=64) / few)
    return [
        Figure(f"CPU a record, {records:,} queued : 10,000 queued", "x", deep, "<= 1.1"),
        Figure("CPU a record, 64 partitions : 1 partition", "x", wide, "<= 1.1"),
    ]
