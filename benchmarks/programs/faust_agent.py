"""An ordinary Faust agent, as its documentation shows it: `take` a batch, `send` one of our results' size for each."""

import os

import faust

SERVERS, SOURCE, TARGET = (os.environ[name] for name in ("SERVERS", "SOURCE", "TARGET"))
RESULT = os.urandom(int(os.environ["RESULT_BYTES"]))

app = faust.App("faust-agent", broker=f"kafka://{SERVERS}", value_serializer="raw", topic_disable_leader=True)
source, target = app.topic(SOURCE, value_type=bytes), app.topic(TARGET, value_type=bytes)


@app.agent(source)
async def move(stream: faust.Stream[bytes]) -> None:
    """Answers each batch."""
    async for batch in stream.take(64, within=0.1):
        for _ in batch:
            await target.send(value=RESULT)


if __name__ == "__main__":
    app.main()
