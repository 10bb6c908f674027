"""A prepared float32 model on OpenVINO, which reads the same graph as onnxruntime."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
from tokenizers import Tokenizer

from streams.embedding import tuning
from streams.embedding.embedder import ModelError, Vectors
from streams.embedding.onnx_backend import OnnxEmbedder
from streams.embedding.prepared import GRAPH, TOKENIZER, Prepared
from streams.embedding.processors import processors


def load_openvino(prepared: Prepared, threads: int = 0) -> OnnxEmbedder:
    """Load a prepared model, after checking its files' digests. Raises ModelError.

    `threads`: how many of the processor's to use, 0 for all that this process may use.
    """
    folder, manifest = prepared.verified().folder, prepared.manifest
    threads = threads or processors()
    try:
        session = OpenvinoSession(folder / GRAPH, threads)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # both raise plain exceptions of their own
        raise ModelError(f"{folder}: cannot be loaded by openvino: {' '.join(str(error).split())}") from error
    budget = tuning.budget(manifest.budget)
    return OnnxEmbedder(session, tokenizer, manifest.identity, manifest.padding, threads, budget)


class OpenvinoSession:
    """A compiled graph that is called as onnxruntime's session is: a stream of one thread for each caller."""

    def __init__(self, graph: Path, threads: int) -> None:
        """Compile the graph; raises what openvino raises."""
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes bfloat16 where the processor has it
        }
        self._compiled = openvino.Core().compile_model(str(graph), "CPU", options)
        self._requests = threading.local()

    def run(self, _: None, feeds: Mapping[str, Any]) -> list[Vectors]:
        """The graph's outputs; waits for them in the calling thread."""
        if not hasattr(self._requests, "own"):
            self._requests.own = self._compiled.create_infer_request()
        return [self._requests.own.infer(dict(feeds))[0].copy()]  # the next call writes where this one did
