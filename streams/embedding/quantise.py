"""A float32 graph becomes one that multiplies 8-bit integers, each token with a scale of its own.

What ruins the usual recipes is one scale for a whole batch of activations: the largest value of any token decides how
coarse all others are, and a vector depends on its neighbours. Here

- each token (row) is divided by its own largest value, so neighbours do not matter, and nothing is calibrated for it;
- weights have a scale a column, and stay within +-63: products of two neighbours are added in 16 bits on processors
  with AVX2 only, where 255 x 63 x 2 fits and 255 x 127 x 2 does not. One file is right on all processors;
- before that, channels are evened out between activations and weights (x / s times s * W is x times W), since a few
  channels of activations are far larger than the rest. `s` comes from sentences that the quality gate does not use.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streams.embedding.onnx_backend import open_session

Array = NDArray[np.float32]
#: Ids and mask of a batch, each int64 (rows, longest).
Batch = tuple[NDArray[np.int64], NDArray[np.int64]]

_LIMIT = 63
_TINY = 1e-6
_DOMAIN = "com.microsoft"  # onnxruntime's own operators


def quantise(source: Path, target: Path, samples: Iterable[Batch]) -> None:
    """Write the graph in `source` to `target` with its linear layers in 8 bits.

    `samples` show what activations look like; they must not be padded.
    """
    model = onnx.load(source)
    layers = _linear_layers(model)
    spread = _spread(model, list(layers), samples)
    rewriter = _Rewriter(model)
    for name, nodes in layers.items():
        rewriter.rewrite(name, nodes, spread[name])
    onnx.save(rewriter.finished(), target)


def _linear_layers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Name of an activation -> the nodes that multiply it with a matrix of weights; several share one in attention."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    layers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            layers.setdefault(node.input[0], []).append(node)
    return layers


def _spread(model: ModelProto, names: list[str], samples: Iterable[Batch]) -> dict[str, Array]:
    """How large each channel of these activations is: the root of its mean square, shape (channels,)."""
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = open_session(watched.SerializeToString())
    squares: dict[str, Any] = dict.fromkeys(names, 0.0)
    tokens = 0
    for ids, mask in samples:
        tokens += ids.size
        for name, values in zip(names, session.run(names, {"ids": ids, "mask": mask}), strict=True):
            squares[name] += np.square(values.reshape(-1, values.shape[-1]), dtype=np.float64).sum(axis=0)
    return {name: np.sqrt(total / tokens).astype(np.float32) for name, total in squares.items()}


class _Rewriter:
    """Replaces linear layers in a model's graph."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._replaced: dict[str, list[NodeProto]] = {}  # first output of a node -> what takes its place
        self._constant("int8/step", np.float32(1 / 127))
        self._constant("int8/zero", np.uint8(128))
        self._constant("int8/tiny", np.float32(_TINY))
        self._constant("int8/last", np.array([-1], np.int64))

    def rewrite(self, name: str, nodes: list[NodeProto], spread: Array) -> None:
        """Puts the layers that read the activation `name` in 8 bits."""
        matrices = [numpy_helper.to_array(self._weights[node.input[1]]) for node in nodes]
        evened = _evened(spread, matrices)
        self._constant(f"{name}/evened", 1 / evened)
        before = list(_to_integers(name))
        for node, matrix in zip(nodes, matrices, strict=True):
            self._weigh(node.input[1], matrix * evened[:, None])
            self._replaced[node.output[0]] = [*before, *_multiply(name, node)]
            before = []

    def finished(self) -> ModelProto:
        """The model with its layers replaced and without the weights that nothing reads any more."""
        graph = self._model.graph
        nodes = [new for node in graph.node for new in self._replaced.get(node.output[0], [node])]
        del graph.node[:]
        graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        if all(opset.domain != _DOMAIN for opset in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        return self._model

    def _weigh(self, name: str, matrix: Array) -> None:
        """Stores a matrix as integers within the limit, with a scale a column."""
        scales = np.maximum(np.abs(matrix).max(axis=0), _TINY) / _LIMIT
        self._constant(f"{name}/int8", np.rint(matrix / scales).astype(np.int8))
        self._constant(f"{name}/scales", scales.astype(np.float32))

    def _constant(self, name: str, value: Any) -> None:
        self._model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _evened(spread: Array, matrices: list[Array]) -> Array:
    """What channels are divided by: half the way from how activations spread to how weights do; mean 1."""
    rows = np.sqrt(np.mean([np.square(matrix).mean(axis=1) for matrix in matrices], axis=0))
    scales = np.sqrt(np.maximum(spread, _TINY) / np.maximum(rows, _TINY))
    return np.asarray(scales / np.exp(np.log(scales).mean()), dtype=np.float32)


def _to_integers(name: str) -> Iterator[NodeProto]:
    """Nodes that turn an activation into integers, 128 for 0, and the largest value of each row."""
    yield helper.make_node("Mul", [name, f"{name}/evened"], [f"{name}/even"])
    yield helper.make_node("Abs", [f"{name}/even"], [f"{name}/absolute"])
    yield helper.make_node("ReduceMax", [f"{name}/absolute", "int8/last"], [f"{name}/peak"], keepdims=1)
    yield helper.make_node("Max", [f"{name}/peak", "int8/tiny"], [f"{name}/largest"])
    yield helper.make_node("Div", [f"{name}/even", f"{name}/largest"], [f"{name}/unit"])
    yield helper.make_node("QuantizeLinear", [f"{name}/unit", "int8/step", "int8/zero"], [f"{name}/int8"])


def _multiply(name: str, node: NodeProto) -> Iterator[NodeProto]:
    """Nodes that multiply the integers of an activation with those of the weights, and scale back."""
    weights, result = node.input[1], node.output[0]
    inputs = [f"{name}/int8", f"{weights}/int8", "int8/step", f"{weights}/scales", "int8/zero"]
    yield helper.make_node("MatMulIntegerToFloat", inputs, [f"{result}/unit"], domain=_DOMAIN)
    yield helper.make_node("Mul", [f"{result}/unit", f"{name}/largest"], [result])
