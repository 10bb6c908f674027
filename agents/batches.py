"""How the bytes of a fetch become records, whatever a producer, or a broken disk, has put into them.

aiokafka's own way ends at the first header whose name is not UTF-8, unpacks without a limit, and where one partition
cannot be read it forgets what it had just taken of the others. `guard` puts the two classes below in the place of its
own; a batch with nothing odd in it still goes through aiokafka's fast parser. tests/contract/test_faust_contract.py
guards what this rests on.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import partial
from gzip import GzipFile
from io import BytesIO
from typing import Any, Final, NamedTuple

import cramjam
import numpy as np
from aiokafka.codec import snappy_decode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from schemas.errors import InvalidField, Reject, UnreadableBatch
from streams.records import Unreadable

#: Offset, and how many bytes follow; then the leader's epoch, and how all that follows is to be read.
_START: Final = struct.Struct(">qiib")
#: Where in a batch its length begins to count, its version is, its attributes are, and its first record begins.
_OVERHEAD, _VERSION, _ATTRIBUTES, _RECORDS = 12, 16, 21, 61
#: The least a batch of the oldest format has behind its length.
_LEAST_LEGACY: Final = 14
_CODEC: Final = 0x07
_BY_BROKER: Final = 0x08  # the time is the broker's, one for the whole batch


class Broken(NamedTuple):
    """Ends the records of a partition that cannot be read on: the bytes are not those that were written."""

    error: Exception


class Damaged(CorruptRecordException):  # type: ignore[misc]
    """A batch is not as it was written: its checksum is wrong, or a part of it is missing."""


def guard(limit: int) -> None:
    """Has every aiokafka consumer of this process read as this module does.

    A batch that unpacks to more than `limit` bytes is refused as a whole, and what one fetch brings of a partition
    never unpacks to more than twice as much.
    """
    fetcher.MemoryRecords, fetcher.PartitionRecords = partial(Batches, limit), PartitionRecords


class Batches:
    """The batches in what a broker sent of one partition; in the place of aiokafka's `MemoryRecords`."""

    def __init__(self, limit: int, data: bytes) -> None:
        self._limit, self._data = limit, data
        self._end = self._unpacked = 0
        #: The batch that was read last, and its bytes after unpacking.
        self.batch: Any = None
        self.content: bytes | memoryview = b""

    def size_in_bytes(self) -> int:
        """Bytes before unpacking."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether there is more to read now: the rest of what unpacks to too much is fetched again.

        Of all that a broker sends only the end may be half a batch; a first one must be whole.
        """
        first = self._end == 0 and bool(self._data)
        return first or (self._unpacked < self._limit and self._next_end() <= len(self._data))

    def next_batch(self) -> Any:
        """Reads the next batch; raises Damaged."""
        start, end = self._end, self._next_end()
        if end > len(self._data):
            raise Damaged(f"a batch of {end - start} bytes ends after {len(self._data) - start}")
        self._end, self.content = end, memoryview(self._data)[start:end]
        self.batch = self._batch()
        if isinstance(self.batch, DefaultRecordBatch) and self.batch.compression_type:
            self.batch = self._unpack()
        self._unpacked += len(self.content)
        return self.batch

    def _batch(self) -> Any:
        version = self.content[_VERSION]
        if version >= 2 and len(self.content) < _RECORDS:
            raise Damaged(f"a batch has only {len(self.content)} bytes")
        try:
            # Before version 2, of Kafka 0.11, there were no headers.
            batch = DefaultRecordBatch(self.content) if version >= 2 else LegacyRecordBatch(self.content, version)
        except Exception as error:
            raise Damaged(f"a batch of version {version} has no head: {error}") from error
        if not batch.validate_crc():
            raise Damaged("the checksum of a batch is wrong")
        return batch

    def _next_end(self) -> int:
        if len(self._data) - self._end < _START.size:
            return len(self._data) + 1
        length: int = _START.unpack_from(self._data, self._end)[1]
        if length < _LEAST_LEGACY:
            raise Damaged(f"a batch says that it has {length} bytes")
        return self._end + _OVERHEAD + length

    def _unpack(self) -> Any:
        """Makes an uncompressed batch of a compressed one, or what stands for one that cannot be unpacked."""
        head, packed = bytearray(self.content[:_RECORDS]), bytes(self.content[_RECORDS:])
        try:
            records = _unpacked(packed, self.batch.compression_type, self._limit)
        except Exception as error:  # the checksum is right: these are the bytes that the producer sent
            return Sealed(self.batch, bytes(self.content), f"not to be unpacked into {self._limit} bytes: {error}")
        head[_ATTRIBUTES + 1] &= ~_CODEC
        self.content = b"".join((head, records))
        return DefaultRecordBatch(self.content)


def _unpacked(packed: bytes, codec: int, limit: int) -> Any:
    """Decompresses into `limit` bytes at most; raises one of many errors."""
    if codec == DefaultRecordBatch.CODEC_GZIP:
        records = GzipFile(fileobj=BytesIO(packed)).read(limit + 1)
    elif codec == DefaultRecordBatch.CODEC_SNAPPY:
        records = snappy_decode(packed)  # grows 21 times at the very most
    else:
        into = {DefaultRecordBatch.CODEC_LZ4: cramjam.lz4, DefaultRecordBatch.CODEC_ZSTD: cramjam.zstd}[codec]
        room = np.empty(limit, np.uint8)  # takes memory only where it is written to
        return room[: into.decompress_into(packed, room)]
    if len(records) > limit:
        raise ValueError(f"they have {len(records)} bytes or more")
    return records


class Sealed:
    """Stands for a batch whose records cannot be got out: its one record is refused, with the batch as its value."""

    def __init__(self, batch: Any, content: bytes, why: str) -> None:
        self._batch = batch
        self._content = content
        self._why = why

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["Raw"]:
        # The last offset: whoever begins in the middle of the batch must not pass over it.
        place = self._batch.next_offset - 1, self._batch.max_timestamp, self._batch.timestamp_type
        first = self._batch.base_offset
        yield Raw(*place, None, self._content, (), UnreadableBatch(f"offsets {first} to {place[0]} are {self._why}"))


class Raw(NamedTuple):
    """A record as aiokafka's parsers return it, and why it must be refused."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    why: Reject | None
    checksum: None = None


class PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    """Reads on where aiokafka's own would raise, and says which record is refused; ends with Broken where it cannot."""

    next_fetch_offset: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_crcs = False  # `Batches` has done it

    def _unpack_records(self) -> Iterator[Any]:
        while True:
            try:
                yield from super()._unpack_records()
                return
            except Exception as error:
                batch = self._records.batch
                if isinstance(error, Damaged) or not isinstance(batch, DefaultRecordBatch):
                    yield Broken(error)
                    return
                # The checksum was right, so this is how the producer wrote it: the fast parser has given up on all
                # records of a batch, and the slow one goes on with what is left of them.
                for record in _parsed(batch, self._records.content):
                    if record.offset >= self.next_fetch_offset:
                        self.next_fetch_offset = record.offset + 1
                        yield self._consumer_record(self._tp, record)
                self.next_fetch_offset = batch.next_offset

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if isinstance(record, Raw) and record.why is not None:
            return Unreadable(tp.topic, tp.partition, *record[:6], record.why)
        return super()._consumer_record(tp, record)


# -- the slow parser ----------------------------------------------------------------------------------------------


def _parsed(batch: Any, content: bytes | memoryview) -> Iterator[Raw]:
    """Parses the records of an uncompressed batch one by one; what makes no sense ends as one refused record."""
    if batch.is_control_batch:
        return
    count, at = int.from_bytes(content[_RECORDS - 4 : _RECORDS], "big"), _RECORDS
    for _ in range(count):
        try:
            record, at = _record(batch, content, at)
        except (IndexError, ValueError) as error:
            yield from Sealed(batch, bytes(content), f"not to be parsed: {error}")
            return
        yield record


def _record(batch: Any, content: bytes | memoryview, at: int) -> tuple[Raw, int]:
    size, at = _varint(content, at)
    end = at + size
    later, at = _varint(content, at + 1)  # one byte of attributes, which nobody uses
    further, at = _varint(content, at)
    key, at = _octets(content, at)
    value, at = _octets(content, at)
    count, at = _varint(content, at)
    headers = []
    for _ in range(count):
        name, at = _octets(content, at)
        header, at = _octets(content, at)
        headers.append((name or b"", header))
    if at != end:
        raise ValueError(f"a record of {size} bytes ends {at - end} bytes after its end")
    timestamp = batch.max_timestamp if batch.attributes & _BY_BROKER else batch.first_timestamp + later
    place = batch.base_offset + further, timestamp, batch.timestamp_type
    return Raw(*place, key, value, tuple(map(_readable, headers)), _objection(headers)), at


def _readable(header: tuple[bytes, bytes | None]) -> tuple[str, bytes | None]:
    """Spells bytes of a name that are not UTF-8 as \\xff, so that every Kafka client can read the dead letter."""
    return header[0].decode(errors="backslashreplace"), header[1]


def _objection(headers: Sequence[tuple[bytes, bytes | None]]) -> Reject | None:
    for name, _ in headers:
        try:
            name.decode()
        except UnicodeDecodeError:
            return InvalidField(f"header {_readable((name, None))[0][:80]}: expected a name in UTF-8")
    return None


def _octets(content: bytes | memoryview, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(content, at)
    if size < 0:
        return None, at
    if at + size > len(content):
        raise ValueError(f"{size} bytes are announced and {len(content) - at} there")
    return bytes(content[at : at + size]), at + size


def _varint(content: bytes | memoryview, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise ValueError("a number has no end")
