"""A model on torch becomes a graph for onnxruntime: traced, and checked for what tracing can get wrong."""

import logging
import warnings
from pathlib import Path

from onnxruntime import GraphOptimizationLevel

from streams.embedding.embedder import Embedder, ModelError
from streams.embedding.onnx_backend import open_session
from streams.embedding.tokeniser import Padding
from streams.embedding.torch_backend import TorchEmbedder

_TOO_LARGE = 2_000_000_000  # bytes of a file in ONNX's format


def export(embedder: Embedder, graph: Path, tokenizer: Path) -> Padding:
    """Write a torch embedder's graph and tokenizer; returns how batches for it are padded. Raises ModelError.

    In the graph `ids` and `mask`, int64 (rows, longest), give `vectors`, float32 (rows, dimensions). Whatever the
    model's modules do is in it: transformer, pooling, dense layers, normalisation. The embedder's own attention is
    changed for a plainer one, equal but for rounding.
    """
    if not isinstance(embedder, TorchEmbedder):
        raise ModelError(f"{embedder.identity.name}: there is nothing to export")
    try:
        import onnxscript  # noqa: F401  (what torch's exporter writes with)
    except ImportError:
        raise ModelError("to prepare a model, install the extra: sentence-streams[onnx-export]") from None
    if sum(weight.nbytes for weight in embedder.rows.parameters()) > _TOO_LARGE:
        raise ModelError(f"{embedder.identity.name}: its weights are over 2 GB, more than one ONNX file can hold")
    traced = graph.with_suffix(".traced")
    try:
        _trace(embedder, traced)
    except Exception as error:  # whatever layer of torch this model is the first to try
        raise ModelError(
            f"{embedder.identity.name}: this kind of model cannot be exported, only served by torch: {_reason(error)}"
        ) from error
    _optimise(traced, graph)
    traced.unlink()
    embedder.tokenizer.save(str(tokenizer), pretty=False)
    return embedder.padding


def _reason(error: BaseException) -> str:
    """What was wrong in the first place: torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _trace(embedder: TorchEmbedder, file: Path) -> None:
    import torch
    from transformers import PreTrainedModel

    for module in embedder.rows.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")  # its graph has no guards against rows without any token
    rows = torch.export.Dim("rows")
    longest = torch.export.Dim("longest", max=embedder.identity.max_tokens)
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses libraries that nothing here needs
    with warnings.catch_warnings(action="ignore"):  # of torch's own making, about names it gives
        program = torch.onnx.export(
            embedder.rows.eval(),
            (torch.ones(2, 7, dtype=torch.int64), mask),
            dynamo=True,  # without it the mask of a batch of mixed lengths is lost
            dynamic_shapes=({0: rows, 1: longest}, {0: rows, 1: longest}),
            input_names=["ids", "mask"],
            output_names=["vectors"],
            verbose=False,
        )
    assert program is not None
    program.save(file)


def _optimise(traced: Path, graph: Path) -> None:
    """Folds constants and drops what does nothing, once, so that no start pays for it."""
    basic = GraphOptimizationLevel.ORT_ENABLE_BASIC
    open_session(str(traced), graph_optimization_level=basic, optimized_model_filepath=str(graph))
