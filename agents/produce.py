"""`sentence-streams produce`: sentences from a file to a request topic, each with the broker's receipt."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer

from agents.clients import NoTopic, broker, codec, request_topics
from agents.console import Advance, plural, print_json, progress, remark
from agents.inputs import Blank, Defaults, Format, Given, Malformed, format_of, rows
from schemas.codec import Codec
from schemas.errors import InvalidField
from streams.lanes import LaneName
from streams.settings import Settings

STDIN = Path("-")
#: Bytes that may wait in the client for the broker; two of the largest sentences always may.
BUFFER_BYTES = 32 * 1024**2
#: Of what went wrong, how much is told.
TOLD = 20
#: Seconds that one wait for receipts takes at most, so that Ctrl-C is answered at once.
PAUSE = 0.2
#: With one of these nothing that follows would get through.
HOPELESS = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
        KafkaError._UNKNOWN_TOPIC,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to produce, and how."""

    #: A file, or STDIN.
    source: Path
    #: None: what the file's name says.
    form: Format | None
    lane: LaneName
    defaults: Defaults
    #: Whether a sentence without a key of its own gets its id as the key.
    key_by_id: bool
    #: Most sentences to send, and how many a second; None: no limit.
    limit: int | None
    rate: float | None
    #: Seconds that the broker may take for a receipt.
    timeout: float


class Failure(NamedTuple):
    """A sentence without a receipt."""

    line: int
    id: str
    reason: str


@dataclass(slots=True)
class Report:
    """What became of the rows; lists hold the first TOLD."""

    topic: str
    sent: int = 0
    receipts: int = 0
    blank: int = 0
    malformed: int = 0
    failed: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    #: Why nothing more could be sent.
    stopped: str | None = None
    problems: list[Malformed] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def refuse(self, row: Malformed) -> None:
        self.malformed += 1
        if len(self.problems) < TOLD:
            self.problems.append(row)

    def fail(self, failure: Failure) -> None:
        self.failed += 1
        if len(self.failures) < TOLD:
            self.failures.append(failure)

    @property
    def code(self) -> int:
        """The exit code."""
        if self.interrupted:
            return 130
        if self.stopped:
            return 1
        return 3 if self.malformed or self.sent != self.receipts else 0


class Sender:
    """Hands sentences to an idempotent producer and books the receipts; buffers a bounded number of bytes."""

    def __init__(self, settings: Settings, job: Job, codec: Codec, report: Report) -> None:
        self._codec, self._report, self._by_id, self._timeout = codec, report, job.key_by_id, job.timeout
        self._whole = Whole()
        self._producer = Producer(
            {
                "bootstrap.servers": settings.bootstrap_servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                # Keys go where every Java client sends them, records without one evenly to all partitions.
                "partitioner": "murmur2_random",
                "sticky.partitioning.linger.ms": 0,
                "message.max.bytes": settings.max_request_bytes,
                "batch.size": settings.max_request_bytes,
                "message.timeout.ms": round(job.timeout * 1000),
                "queue.buffering.max.kbytes": max(BUFFER_BYTES, 2 * settings.max_request_bytes) // 1024,
                # What goes wrong is in the report.
                "log_level": 0,
                "error_cb": _ignore,
                **settings.kafka_security().librdkafka(),
            }
        )

    def send(self, row: Given) -> None:
        """Hands over one sentence; waits while the buffer is full. Raises RegistryUnavailable."""
        sentence = row.sentence
        try:
            value = self._codec.encode(sentence, self._report.topic)
        except InvalidField as error:
            self._report.refuse(Malformed(row.line, str(error)))
            return
        key = sentence.id if row.key is None and self._by_id else row.key
        book = partial(self._book, row.line, sentence.id)
        while not self._taken(value, key, book):
            self._poll(PAUSE)
        self._poll(0)

    def _taken(self, value: bytes, key: str | bytes | None, book: Callable[[KafkaError | None, Any], None]) -> bool:
        with self._whole:
            try:
                self._producer.produce(self._report.topic, value, key, on_delivery=book)
            except BufferError:
                return False
            except KafkaException as error:
                book(error.args[0], None)
            self._report.sent += 1
        return True

    def _poll(self, seconds: float) -> None:
        with self._whole:
            self._producer.poll(seconds)

    def wait(self, seconds: float) -> None:
        """Waits, booking receipts meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._poll(min(left, PAUSE))

    def finish(self) -> None:
        """Waits for the receipts of all that was handed over, each for as long as the job's timeout says."""
        if self._report.stopped:
            self._producer.purge()
        try:
            while len(self._producer):
                self._poll(PAUSE)
        except KeyboardInterrupt:
            self._report.interrupted = True

    def _book(self, line: int, identity: str, error: KafkaError | None, _message: Any) -> None:
        if error is None:
            self._report.receipts += 1
            return
        late = error.code() == KafkaError._MSG_TIMED_OUT
        reason = f"the broker did not answer within {self._timeout:g} s" if late else error.str()
        self._report.fail(Failure(line, identity, reason))
        if error.code() in HOPELESS and self._report.stopped is None:
            self._report.stopped = reason


class Whole:
    """A block that Ctrl-C does not cut in two: in the middle of it a sentence or its receipt would go uncounted.

    Masking the signal would not do: it may arrive in any of librdkafka's threads, and Python raises in this one.
    """

    def __init__(self) -> None:
        self._inside = self._asked = False
        signal.signal(signal.SIGINT, self._interrupt)

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        if not self._inside:
            raise KeyboardInterrupt
        self._asked = True


def run(settings: Settings, job: Job, *, as_json: bool) -> int:
    """Produces, tells what became of it, and returns the exit code.

    Raises UnusableInput, NoTopic, BrokerUnreachable, BrokerRefused, or RegistryUnavailable.
    """
    report = Report(request_topics(settings)[job.lane])
    _check_topic(settings, report.topic, job.timeout)
    started = time.monotonic()
    with _opened(job.source) as (stream, size), codec(settings) as encoder:
        sender = Sender(settings, job, encoder, report)
        try:
            with progress(report.topic, size) as advance:
                _send_all(stream, settings, job, sender, report, advance)
        except KeyboardInterrupt:
            report.interrupted = True
            remark("interrupted: waiting for the receipts of what was sent")
        finally:
            sender.finish()
    report.seconds = time.monotonic() - started
    _tell(report)
    if as_json:
        print_json(_as_json(report))
    return report.code


def _check_topic(settings: Settings, topic: str, timeout: float) -> None:
    # Asked for by name, so that a broker that makes topics as they are used makes this one.
    trouble = broker(settings, timeout).list_topics(topic, timeout).topics[topic].error
    if trouble is not None and trouble.code() != KafkaError.LEADER_NOT_AVAILABLE:  # just made: it will have one
        raise NoTopic(f"topic {topic}: {trouble.str()}; `sentence-streams provision` makes it")


@contextmanager
def _opened(source: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """Yields the stream and its size in bytes, None where that is not known."""
    if source == STDIN and sys.stdin.isatty():
        remark("reading from the terminal; Ctrl-D ends it")
    with nullcontext(sys.stdin.buffer) if source == STDIN else source.open("rb") as stream:
        status = os.fstat(stream.fileno())
        yield stream, status.st_size if stat.S_ISREG(status.st_mode) else None


def _send_all(stream: BinaryIO, settings: Settings, job: Job, sender: Sender, report: Report, advance: Advance) -> None:
    form = job.form or format_of(job.source)
    place = stream.tell if stream.seekable() else lambda: 0
    started = time.monotonic()
    for row in rows(stream, form, job.defaults, settings.max_request_bytes):
        if isinstance(row, Blank):
            report.blank += 1
        elif isinstance(row, Malformed):
            report.refuse(row)
        else:
            sender.send(row)
            if job.rate:
                sender.wait(started + report.sent / job.rate - time.monotonic())
        advance(place(), report.sent)
        if report.stopped or report.sent == job.limit:
            return


def _tell(report: Report) -> None:
    for row in report.problems:
        remark(f"line {row.line}: {row.problem}")
    _more(report.malformed - len(report.problems), "malformed")
    for failure in report.failures:
        remark(f"line {failure.line}, id {failure.id}: no receipt: {failure.reason}")
    _more(report.failed - len(report.failures), "without a receipt")
    if report.stopped:
        remark(f"stopped: {report.stopped}")
    rate = report.receipts / report.seconds if report.seconds else 0
    remark(
        f"{report.topic}: {plural(report.sent, 'sentence')} sent, {plural(report.receipts, 'receipt')}, "
        f"{report.sent - report.receipts:,} without; {plural(report.malformed, 'malformed line')}, "
        f"{report.blank:,} blank; {report.seconds:.1f} s, {rate:,.0f}/s"
    )


def _more(count: int, what: str) -> None:
    if count > 0:
        remark(f"and {count:,} more {what}")


def _as_json(report: Report) -> dict[str, Any]:
    answer = asdict(report)
    answer["problems"] = [row._asdict() for row in report.problems]
    answer["failures"] = [failure._asdict() for failure in report.failures]
    return answer


def _ignore(_error: KafkaError) -> None:
    """Takes what librdkafka would log; the receipts say it too."""
