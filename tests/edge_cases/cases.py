"""What operators are given beyond what the standard speaks of: cases that backends agree on, and those that they don't.

The latter are the rows of docs/edges.md, by operator and case.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.types import DType, TensorType

NAN, INF = np.nan, np.inf
Made: TypeAlias = Value | tuple[Value, ...]


@dataclass(frozen=True)
class Case:
    """A graph of one operator, or a few.

    Attributes:
        build: a function from a builder and the inputs to the outputs.
        feeds: the inputs; their sizes are symbolic where `dims` has names for them.
        dims: the dimensions of inputs, by their positions.
    """

    build: Callable[..., Made]
    feeds: tuple[np.ndarray, ...]
    dims: Mapping[int, tuple[int | str, ...]] = field(default_factory=dict[int, tuple[int | str, ...]])

    def add(self, graph: Graph, name: str) -> dict[str, np.ndarray]:
        """Write the case into a graph; returns what its inputs are fed, by name."""
        op, feeds, inputs = Builder(graph, location=Location(name)), dict[str, np.ndarray](), list[Value]()
        for index, array in enumerate(self.feeds):
            dims = tuple(f"{dim}_{name}" if isinstance(dim, str) else dim for dim in self.dims.get(index, array.shape))
            inputs.append(graph.add_input(f"x{index}_{name}", TensorType(DType.of(array.dtype), dims)))
            feeds[inputs[-1].name] = array
        made = self.build(op, *inputs)
        for index, value in enumerate(made if isinstance(made, tuple) else (made,)):
            graph.outputs[f"y{index}_{name}"] = value
        return feeds


def case(
    operator: str, *arrays: Any, dims: Mapping[int, tuple[int | str, ...]] | None = None, **attributes: Any
) -> Case:
    """A node whose operands are inputs, or constants where they are lists."""
    given = tuple(np.asarray(array) for array in arrays if array is not None and not isinstance(array, list))

    def build(op: Builder, *inputs: Value) -> Made:
        rest = iter(inputs)
        operands = [
            op.constant(np.array(array[0])) if isinstance(array, list) else None if array is None else next(rest)
            for array in arrays
        ]
        return op(operator, *operands, **attributes)

    return Case(build, given, dims or {})


def computed(operator: str, x: np.ndarray, places: np.ndarray, *rest: np.ndarray, **attributes: Any) -> Case:
    """A node that is told places that the model computes."""

    def build(op: Builder, x: Value, places: Value, *rest: Value) -> Made:
        return op(operator, x, op.Sub(op.Add(places, places), places), *rest, **attributes)

    return Case(build, (x, places, *rest))


def floats(*numbers: float, shape: tuple[int, ...] | None = None) -> np.ndarray:
    return np.array(numbers, np.float32).reshape(shape or (len(numbers),))


def ints(*numbers: int, dtype: type = np.int64) -> np.ndarray:
    return np.array(numbers, dtype)


def least(dtype: type) -> np.ndarray:
    return np.array([np.iinfo(dtype).min, 7], dtype)


def _recurrent(operator: str, gates: int, *shape: int) -> Case:
    weights = [np.ones((1, 4 * gates, size), np.float32) for size in (3, 4)]
    rows = np.ones((*shape, 3), np.float32)
    return case(operator, rows, *([w] for w in weights), hidden_size=4, outputs=2, dims={0: (shape[0], "batch", 3)})


def _chosen(op: Builder, condition: Value, x: Value) -> Made:
    branches = [Graph(name, op.graph) for name in ("then", "else")]
    for branch, operator in zip(branches, ("Neg", "Abs"), strict=True):
        branch.outputs = {"y": Builder(branch)(operator, x)}
    return op.If(condition, then_branch=branches[0], else_branch=branches[1])


X, ROWS, NONE = floats(1, 2, 3), np.ones((2, 3), np.float32), np.ones((2, 0), np.float32)
BOXES = floats(0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1.1, shape=(1, 3, 4))
HEADS = np.ones((1, 1, 2, 4), np.float32)
WIDTHS = (np.int8, np.int16, np.int32, np.int64)
BEYOND = floats(NAN, INF, -INF, 3e9, -3e9, 300, -1, -129.5, 2.7)

ALIKE: dict[str, Case] = {
    **{f"{op} {np.dtype(t)} by -1": case(op, least(t), np.array([-1, 2], t)) for op in ("Div", "Mod") for t in WIDTHS},
    **{f"Div {np.dtype(t)} by a constant": case("Div", least(t), [np.array([-1, 2], t)]) for t in WIDTHS},
    **{f"Mod {name}": case("Mod", ints(-7, 7, -7, 7), ints(3, -3, -3, 3), fmod=fmod)
       for name, fmod in (("signs", 0), ("fmod signs", 1))},
    "Mod of floats": case("Mod", floats(-7, 7, 1, INF, NAN, 5), floats(3, -3, 0, 2, 1, INF), fmod=1),
    **{f"Cast to {to}": case("Cast", BEYOND, to=DType[to])
       for to in ("int8", "int16", "int32", "int64", "uint8", "uint16", "bool")},
    **{f"Cast to {to}": case("Cast", floats(NAN, INF, -INF, 1e30, -500, 65519, 65520), to=DType[to])
       for to in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")},
    "BitShift by too much": case("BitShift", ints(5, 5, dtype=np.uint32), ints(32, 1, dtype=np.uint32),
                                 direction="LEFT"),
    "Pow with negative exponents": case("Pow", ints(2, 1, -1, -1, 3), ints(-1, -2, -3, -2, 0)),
    "OneHot of a depth with a fraction": case("OneHot", ints(1, -1), [np.float32(2.5)], [floats(0, 1)]),
    "OneHot beyond": case("OneHot", ints(5, -5, -1), [3], [floats(0, 1)]),
    "Max": case("Max", floats(NAN, 1, NAN), floats(1, NAN, NAN)),
    "Relu": case("Relu", floats(NAN, -INF, INF, -1)),
    "Sign": case("Sign", floats(NAN, -INF, INF, -0.0)),
    "HardSwish": case("HardSwish", floats(NAN, INF, 3e38, -3e38)),
    "Gelu": case("Gelu", floats(NAN, INF, 1e38, -1e38)),
    "Round": case("Round", floats(0.5, 1.5, 2.5, -0.5, -1.5)),
    "Sqrt and Log": Case(lambda op, x: (op.Sqrt(x), op.Log(x)), (floats(-1, -0.0, NAN, INF),)),
    "Clip": case("Clip", floats(NAN, -5, 5, 0.5), [np.float32(2)], [np.float32(-2)]),
    "Clip of a number to a row of one": case("Clip", np.float32(5), None, [floats(1)]),
    "ArgMax ties": case("ArgMax", floats(-INF, -INF), axis=0),
    "TopK largest": case("TopK", floats(1, NAN, 3, NAN, INF, -INF, 3), [[4]], outputs=2),
    "TopK smallest": case("TopK", floats(1, NAN, 3, NAN, INF, -INF, 0, -0.0), [[8]], outputs=2, largest=0),
    "Softmax": case("Softmax", floats(-INF, 0, 1, -INF, -INF, -INF, INF, 0, 1, NAN, 0, 1, shape=(4, 3))),
    "LogSoftmax": case("LogSoftmax", floats(-INF, 0, 1, -INF, -INF, -INF, shape=(2, 3))),
    **{f"{name} of nothing": case(name, NONE, [[1]]) for name in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd")},
    "ReduceMax": case("ReduceMax", floats(NAN, 1, -INF, -INF, shape=(2, 2)), [[1]]),
    "QuantizeLinear": case("QuantizeLinear", floats(NAN, INF, -INF, 1e9, 0.5, 1.5), [np.float32(1)], [np.int8(3)]),
    "QuantizeLinear by a computed scale": case("QuantizeLinear", floats(NAN, 1), np.float32(1), np.int8(3)),
    "QuantizeLinear by 0": case("QuantizeLinear", floats(1, -1, 0, NAN), [np.float32(0)], [np.uint8(3)]),
    "MatMulInteger": case("MatMulInteger", ints(1, 255, dtype=np.uint8)[None], ints(-128, 127, dtype=np.int8)[:, None],
                          np.uint8(255), np.int8(-128)),
    "MeanVarianceNormalization of one number": case("MeanVarianceNormalization", np.ones((1, 1, 2, 2), np.float32)),
    "Gemm by 0": case("Gemm", ROWS[:1] * np.float32(NAN), [ROWS[:1].T], floats(1), alpha=0.0),
    "Pad by less": case("Pad", X, ints(-1, -1)),
    "Slice by far bounds": case("Slice", X, ints(2**63 - 1), ints(-(2**63)), [[0]], ints(-1)),
    "Slice by a far step": case("Slice", X, ints(0), ints(3), [[0]], ints(2**63 - 1)),
    "NonZero": case("NonZero", floats(NAN, 0, -0.0, 1)),
    "Compress to nothing": case("Compress", X, np.zeros(3, bool), axis=0),
    "MatMul without rows": case("MatMul", ROWS[:0], [ROWS.T], dims={0: ("n", 3)}),
    "Softmax without rows": case("Softmax", ROWS[:0], dims={0: ("n", 3)}),
    "Conv without rows": case("Conv", np.ones((0, 1, 3, 3), np.float32), [np.ones((1, 1, 2, 2), np.float32)],
                              dims={0: ("n", 1, 3, 3)}),
    "MaxPool without rows": case("MaxPool", np.ones((0, 1, 3, 3), np.float32), kernel_shape=(2, 2),
                                 dims={0: ("n", 1, 3, 3)}),
    "subnormal numbers": Case(lambda op, x: (op.Add(x, x), op.Mul(x, x), op.Relu(x), op.Sqrt(x)),
                              (floats(1e-40, 1e-45),)),
}  # fmt: skip
"""What all backends make the same of."""

REFUSED: dict[str, Case] = {
    "Gather at a constant": case("Gather", X, [[5]]),
    "GatherND at a constant": case("GatherND", ROWS, [[[0, -4]]]),
    "ScatterElements at a constant": case("ScatterElements", X, [[-4]], [floats(9)]),
    "Gather at an input": case("Gather", X, ints(5)),
    "Gather at an input, of any size": case("Gather", X, ints(-4), dims={0: ("n",)}),
    "Gather of nothing": case("Gather", ROWS[:0], ints(0), dims={0: ("n", 3)}),
    "ScatterElements of fewer updates": case("ScatterElements", X, ints(0, 1), floats(9), dims={1: ("n",), 2: ("m",)}),
    "ScatterND of fewer updates": case("ScatterND", X, ints(0, 1)[:, None], floats(9), dims={1: ("n", 1), 2: ("m",)}),
    "Reshape to another size": case("Reshape", X, [[2, 2]], dims={0: ("n",)}),
    "Reshape to a part": case("Reshape", X, [[2, -1]], dims={0: ("n",)}),
    "Reshape to a computed size": case("Reshape", X, ints(2, 2)),
    "Squeeze of rows": case("Squeeze", ROWS, [[0]], dims={0: ("n", 3)}),
    "Expand to another size": case("Expand", X, ints(2)),
    "Expand to less than nothing": case("Expand", floats(1), ints(-1)),
    "Add of other sizes": case("Add", X, floats(1, 2), dims={0: ("n",), 1: ("m",)}),
    "Concat of other sizes": case("Concat", ROWS, ROWS[:, :2], axis=0, dims={0: (2, "n"), 1: (2, "m")}),
    "MatMul of other sizes": case("MatMul", ROWS, ROWS, dims={0: (2, "n"), 1: ("m", 3)}),
    "Split to other sizes": case("Split", X, ints(1, 1), outputs=2),
    "TopK of more than there is": case("TopK", X, [[5]], outputs=2, dims={0: ("n",)}),
    "TopK of a computed count": case("TopK", X, ints(5), outputs=2),
    "Clip to several bounds": case("Clip", X, [floats(1, 2, 3)]),
    "Range by steps of 0": case("Range", np.int64(0), np.int64(5), np.int64(0)),
    "Range to infinity": case("Range", np.float32(0), np.float32(INF), np.float32(1)),
    "Range of too many": case("Range", np.int64(0), np.int64(2**62), np.int64(1)),
    "MaxPool of less than a window": case("MaxPool", np.ones((1, 1, 1), np.float32), kernel_shape=(2,),
                                          dims={0: (1, 1, "w")}),
    "MaxUnpool of fewer places": case("MaxUnpool", ROWS[None, None], np.zeros((1, 1, 1, 3), np.int64),
                                      kernel_shape=(2, 2), dims={0: (1, 1, "h", 3)}),
    "If of several conditions": Case(_chosen, (np.array([True, False]), floats(1)), {0: ("n",)}),
    "SequenceAt beyond": Case(lambda op, x, place: op.SequenceAt(op.SequenceConstruct(x, x), place), (X, np.array(5))),
}  # fmt: skip
"""What all backends refuse, when it is built or when it is run."""

DIFFERENT: dict[tuple[str, str], Case] = {
    ("Gather", "a computed place beyond the end"): computed("Gather", X, ints(5)),
    ("GatherND", "a computed place before the start"): computed("GatherND", X, ints(-5)[:, None]),
    ("ScatterElements", "a computed place beyond the end"): computed("ScatterElements", X, ints(5), floats(9)),
    ("Compress", "true beyond the end"): case("Compress", X, np.array([1, 0, 0, 1], bool), axis=0),
    ("TensorScatter", "a start beyond the end"): case("TensorScatter", np.zeros((1, 3, 1), np.float32),
                                                      np.ones((1, 2, 1), np.float32), ints(2)),
    ("ReverseSequence", "a length beyond the end"): case("ReverseSequence", floats(1, 2, 3)[:, None], ints(4)),
    ("RoiAlign", "an image beyond the last"): case("RoiAlign", np.ones((1, 1, 4, 4), np.float32),
                                                   floats(0, 0, 2, 2)[None], ints(3)),
    ("CumSum", "a computed axis beyond the last"): case("CumSum", X, np.int64(5)),
    ("RotaryEmbedding", "a computed position of -1"): case(
        "RotaryEmbedding", HEADS, floats(0, 1, 2, 3, 4, 5, shape=(3, 2)), np.zeros((3, 2), np.float32),
        ints(0, -1)[None]),
    ("NegativeLogLikelihoodLoss", "a label of -1"): case("NegativeLogLikelihoodLoss", floats(1, 2, 3)[None], ints(-1)),
    ("Slice", "a computed step of 0"): case("Slice", X, ints(0), ints(3), [[0]], ints(0)),
    ("Slice", "constant bounds beyond a symbolic size"): case("Slice", X, [[7]], [[9]], [[0]], dims={0: ("n",)}),
    ("Div", "integers by 0"): case("Div", ints(7, 1), ints(0, 1)),
    ("Mod", "integers by 0"): case("Mod", ints(7, 1), ints(0, 1)),
    ("Pow", "integers beyond 64 bits, 0 to the power of -1"): case("Pow", ints(10, 0, 3), ints(30, -1, 39)),
    ("ReduceSum", "integers beyond 32 bits"): case("ReduceSum", ints(2**31 - 1, 1, dtype=np.int32), [[0]]),
    ("ReduceMean", "of nothing"): case("ReduceMean", NONE, [[1]]),
    ("ArgMax", "NaN"): case("ArgMax", floats(1, NAN, 3), axis=0),
    ("ArgMin", "NaN"): case("ArgMin", floats(1, NAN, 3), axis=0),
    ("Cast to string", "truth values"): case("Cast", np.array([True, False]), to=DType.string),
    ("Cast to string", "whole floats"): case("Cast", floats(0, 2, 0.5), to=DType.string),
    ("Clip", "a bound of NaN"): case("Clip", floats(-5, 5), np.float32(NAN), np.float32(1)),
    ("Unique", "NaN"): case("Unique", floats(NAN, 1, NAN, 0)),
    ("NonZero", "a number alone"): case("NonZero", np.float32(3)),
    ("ScatterElements", "the greatest of NaN and numbers"): case("ScatterElements", floats(NAN, 2), ints(0, 1),
                                                                 floats(9, 8), reduction="max"),
    ("NonMaxSuppression", "scores of NaN, without a threshold"): case(
        "NonMaxSuppression", BOXES, floats(NAN, 0.5, 0.7, shape=(1, 1, 3)), [[3]], [floats(0.5)]),
    ("LRN", "NaN beyond the window"): case("LRN", floats(NAN, 1, 1, shape=(1, 3, 1, 1)), size=1, alpha=1.0, beta=1.0),
    ("DFT", "infinity"): case("DFT", floats(INF, 1, 1, 1, shape=(1, 4, 1)), None, [1]),
    ("STFT", "infinity"): case("STFT", floats(INF, 1, 1, 1, shape=(1, 4, 1)), [1], None, [4], onesided=0),
    ("MaxPool", "NaN"): case("MaxPool", floats(1, NAN, 3, 2, shape=(1, 1, 4)), kernel_shape=(2,)),
    ("MaxPool", "padding around minus infinity"): case("MaxPool", floats(-INF, -INF, shape=(1, 1, 2)),
                                                       kernel_shape=(2,), pads=(1, 0)),
    ("Conv", "an image smaller than the window"): case("Conv", np.ones((1, 1, 2), np.float32),
                                                       [np.ones((1, 1, 3), np.float32)], dims={0: (1, 1, "w")}),
    ("Conv", "padding times infinity"): case("Conv", np.ones((1, 1, 2), np.float32), [floats(INF, 1, shape=(1, 1, 2))],
                                             pads=(1, 0)),
    ("GlobalAveragePool", "an image of nothing"): case("GlobalAveragePool", np.ones((1, 1, 0), np.float32),
                                                       dims={0: (1, 1, "w")}),
    ("Gemm", "0 times NaN, by beta"): case("Gemm", ROWS[:1], [ROWS[:1].T], floats(NAN), beta=0.0),
    ("MatMul", "sums of nothing, of a symbolic size"): case("MatMul", NONE, NONE.T, dims={0: (2, "n"), 1: ("n", 2)}),
    ("Softmax", "subnormal results"): case("Softmax", floats(0, -90)[None]),
    ("Hardmax", "NaN"): case("Hardmax", floats(1, NAN)),
    ("DynamicQuantizeLinear", "NaN"): case("DynamicQuantizeLinear", floats(0, NAN, 1), outputs=3),
    ("DynamicQuantizeLinear", "minus infinity"): case("DynamicQuantizeLinear", floats(0, -INF, 1), outputs=3),
    ("ConvTranspose", "a weight of infinity"): case("ConvTranspose", floats(1, shape=(1, 1, 1, 1)),
                                                    floats(INF, 1, 1, 1, shape=(1, 1, 2, 2))),
    ("ConvTranspose", "infinity beside gaps"): case("ConvTranspose", floats(INF, shape=(1, 1, 1)),
                                                    floats(1, 1, shape=(1, 1, 2)), dilations=(2,)),
    ("DeformConv", "NaN beyond the window"): case("DeformConv", floats(NAN, 1, 1, 1, shape=(1, 1, 2, 2)),
                                                  np.ones((1, 1, 2, 2), np.float32),
                                                  np.zeros((1, 8, 3, 3), np.float32), pads=[1, 1, 1, 1]),
    ("QLinearMatMul", "a scale of NaN"): case(
        "QLinearMatMul", *2 * [np.ones((1, 1), np.int8), np.float32(1), np.int8(0)], np.float32(NAN), np.int8(3)),
    ("GridSample", "a coordinate of NaN"): case("GridSample", np.ones((1, 1, 2, 2), np.float32),
                                                floats(NAN, 0, shape=(1, 1, 1, 2))),
    ("Pad", "reflected more than once"): case("Pad", X, [[5, 0]], mode="reflect"),
    ("Resize", "to nothing"): case("Resize", np.ones((1, 1, 2, 2), np.float32), None, None, [[1, 1, 0, 2]]),
    ("OneHot", "no classes"): case("OneHot", ints(0), ints(0), [floats(0, 1)]),
    ("Attention", "no keys"): case("Attention", HEADS, HEADS[:, :, :0], HEADS[:, :, :0],
                                   dims={1: (1, 1, "k", 4), 2: (1, 1, "k", 4)}),
    ("Attention", "more keys than there are"): case("Attention", HEADS, HEADS, HEADS, None, None, None, ints(5)),
    ("LSTM", "no rows"): _recurrent("LSTM", 4, 2, 0),
    ("GRU", "no rows"): _recurrent("GRU", 3, 2, 0),
    ("ai.onnx.ml::Binarizer", "NaN"): case("ai.onnx.ml::Binarizer", floats(NAN, 1)[None], threshold=0.0),
}  # fmt: skip
"""What backends make different things of, by operator and case."""
