"""What becomes of the bytes of a fetch, whatever they are: records, refusals, or a partition that waits."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import ConsumerRecord, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.batches import Broken, guard
from streams.records import Unreadable
from tests.support.batches import CODECS, Content, Name, batch

TP = TopicPartition("requests", 3)
LIMIT = 100_000
ODD = Name(b"\xff\xfeodd")
FINE: list[Content] = [(b"k", b"v%d" % number, [("name", b"x")]) for number in range(3)]


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads as a worker does; other tests get aiokafka's own classes back."""
    for name in ("MemoryRecords", "PartitionRecords"):
        monkeypatch.setattr(fetcher, name, getattr(fetcher, name))
    guard(LIMIT)


def reader(data: bytes, at: int = 0, aborted: Any = (), committed: bool = True) -> Any:
    """Returns what aiokafka makes of an answer to a fetch from offset `at`."""
    level = fetcher.READ_COMMITTED if committed else fetcher.READ_UNCOMMITTED
    return fetcher.PartitionRecords(TP, fetcher.MemoryRecords(data), list(aborted), at, None, None, True, level)


def read(data: bytes, at: int = 0, aborted: Any = ()) -> tuple[list[Any], int]:
    """Returns all records, and where the next fetch begins."""
    records = reader(data, at, aborted)
    return list(records), records.next_fetch_offset


def plain(found: list[Any]) -> list[tuple[int, bytes | None]]:
    """Returns offset and value of each ordinary record."""
    return [(record.offset, record.value) for record in found if isinstance(record, ConsumerRecord)]


def resealed(data: bytes) -> bytes:
    """A batch with the checksum that its content should have."""
    return data[:17] + struct.pack(">I", calc_crc32c(data[21:])) + data[21:]


# -- what is odd but whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_ordinary_batches_are_read_as_before(codec: str | None) -> None:
    """Every codec, several batches, and a fetch that begins in the middle of one."""
    data = batch(FINE * 20, codec) + batch(FINE, codec, offset=60)
    found, position = read(data, at=58)
    assert plain(found) == [(58, b"v1"), (59, b"v2"), (60, b"v0"), (61, b"v1"), (62, b"v2")]
    assert found[0].headers == (("name", b"x"),)
    assert (found[0].topic, found[0].partition, found[0].timestamp, found[0].timestamp_type) == (*TP, 1058, 0)
    assert position == 63


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_name_that_is_not_utf8_costs_its_record_alone(codec: str | None) -> None:
    """The record is refused with all that is in it, the name in backslash form; its neighbours are read."""
    odd: Content = (b"key\xff", b"value\xff", [("fine", b"1"), (ODD, b"\xff\x00"), ("none", None)])
    data = batch([*FINE * 20, odd, *FINE], codec) + batch(FINE, codec, offset=64)
    found, position = read(data)
    assert [record.offset for record in found] == list(range(67))
    assert [n for n, record in enumerate(found) if isinstance(record, Unreadable)] == [60]
    refused = found[60]
    assert refused[:7] == (*TP, 60, 1060, 0, b"key\xff", b"value\xff")
    assert refused.headers == (("fine", b"1"), ("\\xff\\xfeodd", b"\xff\x00"), ("none", None))
    assert refused.why.reason == "invalid-field"
    assert "\\xff\\xfeodd" in str(refused.why)
    assert found[61].headers == (("name", b"x"),)
    assert found[61].timestamp == 1061
    assert position == 67


def test_the_slow_parser_reads_what_the_fast_one_does() -> None:
    """Sizes of one and of several bytes, missing keys and values, many headers: with an odd name behind, the same."""
    contents: list[Content] = [
        (None, b"", []),
        (b"", None, [("a", b""), ("b", None), ("ü", b"\xff" * 300)]),
        (b"k" * 200, b"v" * 70_000, [(f"name-{n}", b"%d" % n) for n in range(150)]),
    ]
    fast, _ = read(batch(contents))
    slow, _ = read(batch([(None, None, [(ODD, None)]), *contents]))
    assert [(*record[5:7], record.headers) for record in map(as_tuple, fast)] == [
        (*record[5:7], record.headers) for record in map(as_tuple, slow[1:])
    ]


def as_tuple(record: Any) -> Unreadable:
    """A record as a tuple, to compare."""
    return Unreadable(*(getattr(record, name, None) for name in Unreadable._fields))


def test_the_brokers_time_is_that_of_the_whole_batch() -> None:
    """Where the broker sets the time, the times of the records do not count."""
    data = bytearray(batch([(None, b"v", [(ODD, b"")]), *FINE]))
    data[22] |= 0x08
    data[35:43] = (5000).to_bytes(8, "big")
    found, _ = read(resealed(bytes(data)))
    assert [(record.timestamp, record.timestamp_type) for record in found] == [(5000, 1)] * 4


def test_reading_begins_behind_what_was_read_before() -> None:
    """A fetch that starts inside a batch with an odd name does not repeat the records before."""
    found, position = read(batch([(None, b"v", [(ODD, b"")]), *FINE]), at=2)
    assert plain(found) == [(2, b"v1"), (3, b"v2")]
    assert position == 4


def test_an_aborted_transaction_stays_unread_whatever_is_in_it() -> None:
    """Neither its odd names nor its bombs are anybody's record."""
    for records in ([(None, b"v", [(ODD, b"")])], [(None, bytes(10 * LIMIT), [])]):
        data = bytearray(batch(records, "zstd"))
        data[22] |= 0x10  # transactional
        data[43:51] = (77).to_bytes(8, "big")  # the producer
        found, position = read(resealed(bytes(data)) + batch(FINE, offset=1), aborted=[(77, 0)])
        assert plain(found) == [(1, b"v0"), (2, b"v1"), (3, b"v2")]
        assert len(found) == 3
        assert position == 4


# -- too much -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_is_refused_as_a_whole(codec: str) -> None:
    """One refusal at its last offset has the batch itself as its value; what lies before and behind is read."""
    bomb = batch([*FINE, (b"k", bytes(10 * LIMIT), [])], codec, offset=3)
    found, position = read(batch(FINE) + bomb + batch(FINE, offset=7))
    assert plain(found) == [(0, b"v0"), (1, b"v1"), (2, b"v2"), (7, b"v0"), (8, b"v1"), (9, b"v2")]
    refused = found[3]
    assert isinstance(refused, Unreadable)
    assert (refused.offset, refused.timestamp, refused.key, refused.value) == (6, 1003, None, bomb)
    assert refused.why.reason == "unreadable-batch"
    assert "offsets 3 to 6" in str(refused.why)
    assert position == 10


def test_a_bomb_is_found_from_the_middle_too() -> None:
    """Whoever begins inside it must not pass over it."""
    found, _ = read(batch([*FINE, (b"k", bytes(10 * LIMIT), [])], "zstd"), at=2)
    assert [record.offset for record in found] == [3]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_what_unpacks_to_just_enough_is_read(codec: str) -> None:
    """The limit is for what is more."""
    found, _ = read(batch([(b"k", bytes(LIMIT - 20), [])], codec))
    assert plain(found) == [(0, bytes(LIMIT - 20))]


def test_an_uncompressed_batch_has_no_limit_but_the_brokers() -> None:
    """It is in memory already."""
    found, _ = read(batch([(b"k", bytes(3 * LIMIT), [])]))
    assert plain(found) == [(0, bytes(3 * LIMIT))]


def test_many_batches_are_not_unpacked_beyond_the_limit_at_once() -> None:
    """What is left is fetched again: the position stands before it."""
    data = b"".join(batch([(b"k", bytes(LIMIT // 2), [])], "zstd", offset=n) for n in range(10))
    found, position = read(data)
    assert [record.offset for record in found] == [0, 1]
    assert position == 2


def test_compressed_bytes_that_make_no_sense_are_refused() -> None:
    """The checksum is right, so no other try will find better ones."""
    data = bytearray(batch(FINE * 20, "zstd"))
    data[61:] = b"?" * (len(data) - 61)
    found, position = read(resealed(bytes(data)) + batch(FINE, offset=60))
    assert isinstance(found[0], Unreadable)
    assert plain(found)[0] == (60, b"v0")
    assert position == 63


@pytest.mark.parametrize("change", [(61, 0x7E), (65, 0x7F), (61, 0xFF)], ids=str)
def test_records_that_make_no_sense_are_refused(change: tuple[int, int]) -> None:
    """A length that is wrong, a number without an end: refused, and the next batch is read."""
    data = bytearray(batch(FINE))
    data[change[0]] = change[1]
    if change[1] == 0xFF:
        data[61:] = b"\xff" * (len(data) - 61)
    found, position = read(resealed(bytes(data)) + batch(FINE, offset=3))
    refused = [record for record in found if isinstance(record, Unreadable)]
    assert [(record.offset, record.why.reason) for record in refused] == [(2, "unreadable-batch")]
    assert plain(found)[-3:] == [(3, b"v0"), (4, b"v1"), (5, b"v2")]
    assert position == 6


# -- damage ---------------------------------------------------------------------------------------------------


def damaged() -> Iterator[Any]:
    """Batches that are not as they were written."""
    whole = batch(FINE, offset=3)
    yield pytest.param(whole[:-1] + b"?", id="checksum")
    yield pytest.param(whole[:8] + struct.pack(">i", 5) + whole[12:], id="length too small")
    yield pytest.param(whole[:8] + struct.pack(">i", -5) + whole[12:], id="length negative")
    yield pytest.param(whole[:8] + struct.pack(">i", 30) + whole[12:42], id="no room for a header")
    yield pytest.param(whole[:16] + b"\x01" + whole[17:], id="version 1")


@pytest.mark.parametrize("broken", [*damaged()])
def test_damage_ends_the_reading_and_moves_nothing(broken: bytes) -> None:
    """What lies before is read; the position stands at the damage, and stays there."""
    found, position = read(batch(FINE) + broken + batch(FINE, offset=6))
    assert plain(found) == [(0, b"v0"), (1, b"v1"), (2, b"v2")]
    assert isinstance(found[-1], Broken)
    assert position == 3
    found, position = read(broken, at=3)
    assert [type(record) for record in found] == [Broken]
    assert position == 3


def test_half_a_batch_at_the_end_is_no_damage() -> None:
    """A broker may cut an answer anywhere; the rest comes with the next one."""
    whole = batch(FINE, offset=3)
    for size in (1, 11, 12, 60, len(whole) - 1):
        found, position = read(batch(FINE) + whole[:size])
        assert len(found) == 3
        assert position == 3


def test_half_a_batch_alone_is_damage() -> None:
    """The first batch of an answer is always whole; aiokafka would pass over the offset."""
    records = fetcher.MemoryRecords(batch(FINE)[:-1])
    assert records.has_next()
    found, position = read(batch(FINE)[:-1])
    assert [type(record) for record in found] == [Broken]
    assert position == 0


def test_an_empty_answer_has_no_batch() -> None:
    """Nothing new is no damage."""
    records = fetcher.MemoryRecords(b"")
    assert not records.has_next()
    assert records.size_in_bytes() == 0


def test_batches_of_old_producers_are_read() -> None:
    """Messages of the format before headers, damaged and whole."""
    builder = LegacyRecordBatchBuilder(1, 0, 10_000)
    for number in range(3):
        builder.append(number, 1000, b"k", b"v%d" % number)
    data = bytes(builder.build())
    found, position = read(data)
    assert plain(found) == [(0, b"v0"), (1, b"v1"), (2, b"v2")]
    assert position == 3
    found, position = read(data[:-1] + b"?")
    assert plain(found) == [(0, b"v0"), (1, b"v1")]
    assert isinstance(found[-1], Broken)
    assert position == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CODECS, key=str)), st.integers(0, 2), st.integers(8, 120), st.integers(1, 255))
def test_no_damage_is_passed_over(codec: str | None, which: int, at: int, by: int) -> None:
    """Whatever byte is wrong: all before it is read, nothing behind it, or it was a byte that means nothing."""
    batches = [bytearray(batch(FINE, codec, offset=3 * number)) for number in range(3)]
    batches[which][at % len(batches[which])] ^= by if at % len(batches[which]) >= 8 else 0
    found, position = read(b"".join(map(bytes, batches)))
    assert plain(found) == [(offset, b"v%d" % (offset % 3)) for offset in range(position)]
    assert position in {3 * which, 9}
    assert all(isinstance(record, ConsumerRecord | Broken) for record in found)
