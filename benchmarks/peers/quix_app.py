"""Quix Streams: a streaming data frame with the model in `apply`."""

import os
from typing import Any

from quixstreams import Application
from sentence_transformers import SentenceTransformer

app = Application(
    broker_address=os.environ["SERVERS"], consumer_group=f"peer-{os.environ['SOURCE']}", auto_offset_reset="earliest"
)
model = SentenceTransformer(os.environ["MODEL"], device="cpu")


def embed(sentence: dict[str, Any]) -> dict[str, Any]:
    """Embeds one sentence."""
    return {"id": sentence["id"], "vector": model.encode(sentence["text"]).tolist()}


frame = app.dataframe(app.topic(os.environ["SOURCE"], value_deserializer="json"))
frame.apply(embed).to_topic(app.topic(os.environ["TARGET"], value_serializer="json"))

if __name__ == "__main__":
    app.run()
