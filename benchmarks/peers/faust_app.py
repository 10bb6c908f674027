"""Faust: an agent that takes small batches and sends one record for each."""

import os

import faust
from sentence_transformers import SentenceTransformer

app = faust.App("peer-faust", broker=f"kafka://{os.environ['SERVERS']}", topic_disable_leader=True)
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


class Sentence(faust.Record):
    """What comes in."""

    id: str
    text: str


class Embedding(faust.Record):
    """What goes out."""

    id: str
    vector: list[float]


source = app.topic(os.environ["SOURCE"], value_type=Sentence)
target = app.topic(os.environ["TARGET"], value_type=Embedding)


@app.agent(source)
async def embed(stream: faust.Stream[Sentence]) -> None:
    """Embeds what comes, 32 at a time."""
    async for batch in stream.take(32, within=0.1):
        vectors = model.encode([sentence.text for sentence in batch])
        for sentence, vector in zip(batch, vectors, strict=True):
            await target.send(value=Embedding(id=sentence.id, vector=vector.tolist()))


if __name__ == "__main__":
    app.main()
