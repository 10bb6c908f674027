"""FastStream: a batch subscriber whose answer is published as a batch."""

import os

from faststream import FastStream
from faststream.kafka import KafkaBroker
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

broker = KafkaBroker(os.environ["SERVERS"], max_batch_size=1024 * 1024)  # 32 vectors as JSON
app = FastStream(broker)
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


class Sentence(BaseModel):
    """What comes in."""

    id: str
    text: str


class Embedding(BaseModel):
    """What goes out."""

    id: str
    vector: list[float]


@broker.publisher(os.environ["TARGET"], batch=True)
@broker.subscriber(
    os.environ["SOURCE"], batch=True, max_records=32, auto_offset_reset="earliest", group_id="peer-faststream"
)
async def embed(batch: list[Sentence]) -> list[Embedding]:
    """Embeds what comes, 32 at a time."""
    vectors = model.encode([sentence.text for sentence in batch])
    return [Embedding(id=sentence.id, vector=vector.tolist()) for sentence, vector in zip(batch, vectors, strict=True)]
