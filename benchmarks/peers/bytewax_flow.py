"""Bytewax: a data flow that collects small batches and maps the model over them."""

import json
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(os.environ["MODEL"], device="cpu")


def embed(keyed: tuple[str, list[KafkaSourceMessage[Any, Any]]]) -> Iterable[KafkaSinkMessage[Any, Any]]:
    """Embeds a batch."""
    sentences = [json.loads(message.value) for message in keyed[1]]
    vectors = model.encode([sentence["text"] for sentence in sentences])
    for sentence, vector in zip(sentences, vectors, strict=True):
        yield KafkaSinkMessage(None, json.dumps({"id": sentence["id"], "vector": vector.tolist()}).encode())


flow = Dataflow("peer")
read = kop.input("read", flow, brokers=[os.environ["SERVERS"]], topics=[os.environ["SOURCE"]])
keyed = op.key_on("key", read.oks, lambda _: "all")
batches = op.collect("batch", keyed, timeout=timedelta(seconds=0.1), max_size=32)
embedded = op.flat_map("embed", batches, embed)
kop.output("write", embedded, brokers=[os.environ["SERVERS"]], topic=os.environ["TARGET"])
