"""The headers that say why a record is a dead letter, in the two families that existing tools read.

Kafka Connect's numbers are text; Spring's partition, offset and timestamp are big-endian binary. Nothing here
quotes the record: a stack trace is made of exception types and code positions, never of values.
"""

from collections import deque
from collections.abc import Iterator
from traceback import walk_tb
from typing import Final

from schemas.errors import Reject
from schemas.headers import Header
from schemas.records import Source

#: Most bytes of a message and of a stack trace.
MAX_MESSAGE: Final = 1024
MAX_STACKTRACE: Final = 8 * 1024

#: At most so many exceptions of a chain, and frames of each.
_MAX_CHAIN: Final = 8
_MAX_FRAMES: Final = 64

#: Kafka's numbers for a timestamp's type, and Java's names for them.
_TIMESTAMP_TYPES: Final = {0: b"CreateTime", 1: b"LogAppendTime"}


def dead_letter_headers(
    error: Reject, *, read_at: Source, timestamp_type: int, group: str, attempts: int
) -> list[Header]:
    """What a dead letter carries after the record's own headers, which stay as they are.

    `read_at` is where the record was read just now and `timestamp_type` Kafka's number (0 create, 1 append);
    `attempts` is how often the record was tried.
    """
    name = _type_name(error)
    message = cut(str(error), MAX_MESSAGE)
    trace = cut("\n".join(_stack_trace(error)), MAX_STACKTRACE)
    causes = [("kafka_dlt-exception-cause-fqcn", _type_name(cause)) for cause in [_cause(error)] if cause]
    return [
        ("__connect.errors.topic", read_at.topic.encode()),
        ("__connect.errors.partition", b"%d" % read_at.partition),
        ("__connect.errors.offset", b"%d" % read_at.offset),
        ("__connect.errors.stage", error.stage.encode()),
        ("__connect.errors.class.name", _raised_in(error).encode()),
        ("__connect.errors.exception.class.name", name),
        ("__connect.errors.exception.message", message),
        ("__connect.errors.exception.stacktrace", trace),
        ("kafka_dlt-original-topic", read_at.topic.encode()),
        ("kafka_dlt-original-partition", read_at.partition.to_bytes(4, "big", signed=True)),
        ("kafka_dlt-original-offset", read_at.offset.to_bytes(8, "big", signed=True)),
        ("kafka_dlt-original-timestamp", read_at.timestamp.to_bytes(8, "big", signed=True)),
        ("kafka_dlt-original-timestamp-type", _TIMESTAMP_TYPES.get(timestamp_type, b"NoTimestampType")),
        ("kafka_dlt-original-consumer-group", group.encode()),
        ("kafka_dlt-exception-fqcn", name),
        *causes,
        ("kafka_dlt-exception-message", message),
        ("kafka_dlt-exception-stacktrace", trace),
        ("attempts", b"%d" % attempts),
        ("reason", error.reason.encode()),
    ]


def _type_name(error: BaseException) -> bytes:
    return f"{type(error).__module__}.{type(error).__qualname__}".encode()


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_in(error: Reject) -> str:
    """The module that raised it."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", "")) if frames else type(error).__module__


def _stack_trace(error: BaseException) -> Iterator[str]:
    """Types and positions, the innermost first so that a cut loses the least."""
    cause: BaseException | None = error
    for depth in range(_MAX_CHAIN):
        if cause is None:
            return
        yield f"{'caused by ' if depth else ''}{_type_name(cause).decode()}"
        frames = deque(walk_tb(cause.__traceback__), _MAX_FRAMES)
        for frame, line in reversed(frames):
            yield f"  at {frame.f_globals.get('__name__')}:{line} in {frame.f_code.co_qualname}"
        cause = _cause(cause)


def cut(text: str, size: int) -> bytes:
    """At most so many bytes of UTF-8, not ending inside a character."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore").encode()
