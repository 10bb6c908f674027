"""8-bit layers, on a graph small enough to be worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the extra onnx-export is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from streams.embedding.onnx_backend import open_session  # noqa: E402
from streams.embedding.quantise import Batch, quantise  # noqa: E402

VOCABULARY, WIDTH = 50, 8
RANDOM = np.random.default_rng(7)
TABLE = RANDOM.standard_normal((VOCABULARY, WIDTH), np.float32)
TABLE[:, 3] *= 40  # a channel far larger than the others, as models have them
WEIGHTS = {name: RANDOM.standard_normal((WIDTH, 6), np.float32) for name in ("query", "key")}


def model() -> "onnx.ModelProto":
    """Two layers that read one activation, and a product of two activations, which has no weights."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "query"], ["queries"]),
        helper.make_node("MatMul", ["words", "key"], ["keys"]),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "turned"], ["products"]),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real"], ["tokens"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "longest"]) for name in ("ids", "mask")]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("queries", "keys", "products", "tokens")
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in {"table": TABLE, **WEIGHTS}.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def batch(*rows: list[int]) -> Batch:
    ids = np.array(rows, np.int64)
    return ids, np.ones_like(ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The graph in float32 and in 8 bits."""
    folder = tmp_path_factory.mktemp("graphs")
    exact, small = folder / "exact.onnx", folder / "small.onnx"
    onnx.save(model(), exact)
    quantise(exact, small, [batch(list(range(VOCABULARY)))])
    return exact, small


def run(file: Path, *rows: list[int]) -> list[np.ndarray]:
    ids, mask = batch(*rows)
    found: list[np.ndarray] = open_session(str(file)).run(None, {"ids": ids, "mask": mask})
    return found


def test_layers_give_nearly_what_they_gave(files: tuple[Path, Path]) -> None:
    """Every row of every layer points where it pointed, also with a channel forty times the others."""
    rows = [list(range(n, n + 10)) for n in range(0, 40, 10)]

    for exact, small in zip(run(files[0], *rows)[:2], run(files[1], *rows)[:2], strict=True):
        cosines = (exact * small).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(small, axis=-1)
        assert cosines.min() > 0.999


def test_a_row_does_not_depend_on_its_neighbours(files: tuple[Path, Path]) -> None:
    """A token in other company has the same numbers to the bit: its scale is its own."""
    alone = run(files[1], [7])[0]
    together = run(files[1], [7, 1, 2], [3, 4, 5])[0]

    assert np.array_equal(alone[0, 0], together[0, 0])


def test_weights_leave_room_for_sums_in_16_bits(files: tuple[Path, Path]) -> None:
    """Two products of neighbours add up within 16 bits, whatever the activations; and the range is used."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(files[1]).graph.initializer}
    integers = [array for array in stored.values() if array.dtype == np.int8]

    assert len(integers) == 2
    assert all(255 * 2 * np.abs(array.astype(int)).max() < 2**15 for array in integers)
    assert all((np.abs(array.astype(int)).max(axis=0) == 63).all() for array in integers)


def test_a_shared_activation_is_turned_into_integers_once(files: tuple[Path, Path]) -> None:
    """Layers that read the same activation share its integers; products without weights stay as they are."""
    kinds = [node.op_type for node in onnx.load(files[1]).graph.node]

    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("MatMulIntegerToFloat") == 2
    assert kinds.count("MatMul") == 1


def test_the_float_weights_are_gone(files: tuple[Path, Path]) -> None:
    """What is not read any more is not shipped: the point is a smaller file, too."""
    names = {tensor.name for tensor in onnx.load(files[1]).graph.initializer}

    assert "table" in names
    assert not names & WEIGHTS.keys()


def test_a_row_of_zeros_stays_zero(tmp_path: Path) -> None:
    """Nothing is divided by zero where a token's activation has no direction."""
    graph = model()
    zeroed = TABLE.copy()
    zeroed[0] = 0
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(zeroed, "table"))
    onnx.save(graph, tmp_path / "exact.onnx")
    quantise(tmp_path / "exact.onnx", tmp_path / "small.onnx", [batch([1, 2, 3])])

    assert not run(tmp_path / "small.onnx", [0])[0].any()
