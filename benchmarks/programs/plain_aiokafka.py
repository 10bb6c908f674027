"""Plain aiokafka, as its documentation shows it: consume a record, send one of our results' size, commit now and then.

No decoding, no batching, no retries: what a client costs that does nothing but move records.
"""

import asyncio
import os
import signal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

SERVERS, SOURCE, TARGET = (os.environ[name] for name in ("SERVERS", "SOURCE", "TARGET"))
RESULT = os.urandom(int(os.environ["RESULT_BYTES"]))


async def main() -> None:
    """Runs until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    consumer = AIOKafkaConsumer(
        SOURCE, bootstrap_servers=SERVERS, group_id="plain-aiokafka", auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS, compression_type="lz4", acks="all", linger_ms=5)
    await consumer.start()
    await producer.start()
    moving = asyncio.create_task(_move(consumer, producer))
    await asyncio.wait([moving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    moving.cancel()
    await producer.stop()
    await consumer.stop()


async def _move(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
    async for record in consumer:
        await producer.send(TARGET, RESULT, key=record.key)


asyncio.run(main())
