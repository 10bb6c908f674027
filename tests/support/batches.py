"""Record batches that no decent client would send: made byte by byte, sent as they are."""

from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from streams.records import Headers

CODECS = {None: 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
#: No limit of ours: what the broker takes is what counts.
ANY = 1 << 40

#: Key, value and headers.
Content = tuple[bytes | None, bytes | None, Headers]


class Name(str):
    """A header's name made of any bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> "Name":
        name = super().__new__(cls, repr(raw))
        name.raw = raw
        return name

    def encode(self, *_: Any) -> bytes:
        return self.raw


def _builder(records: Iterable[Content], codec: str | None) -> Any:
    # The builder in Python, which asks a name for its bytes; the one in C wants plain text.
    builder = _DefaultRecordBatchBuilderPy(2, CODECS[codec], 0, -1, -1, 0, ANY)
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, 1000 + number, key, value, list(headers))
    return builder


def batch(records: Iterable[Content], codec: str | None = None, offset: int = 0) -> bytes:
    """Returns the bytes of a batch whose first record has the given offset, and 1000 as its time."""
    built = bytes(_builder(records, codec).build())
    return offset.to_bytes(8, "big") + built[8:]


async def send(servers: str, topic: str, partition: int, records: Iterable[Content], codec: str | None = None) -> None:
    """Produces all records as one batch, whatever it unpacks to."""
    records = tuple(records)
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        made = BatchBuilder(ANY, CODECS[codec])
        made._builder, made._relative_offset = _builder(records, codec), len(records)
        await (await producer.send_batch(made, topic, partition=partition))
