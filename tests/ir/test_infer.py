"""Types without data: what holds for every size is given, what holds for some is refused or taken as documented."""

import re
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planish.ir.builder import Builder
from planish.ir.dims import Dim, evaluate
from planish.ir.errors import ModelError
from planish.ir.graph import Constant, Graph, Location, Node, Value
from planish.ir.infer import find_operator, infer
from planish.ir.reinfer import reinfer
from planish.ir.scope import scope
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType

Case: TypeAlias = tuple[str, list[Value | None], dict[str, Any]]
FAR = 2**63 - 1


def tensor(*shape: Dim, dtype: DType = DType.float32) -> Value:
    return Value("x", TensorType(dtype, shape))


def ints(*values: int) -> Constant:
    return Constant("ints", np.array(values, np.int64))


def floats(*values: float) -> Constant:
    return Constant("floats", np.array(values, np.float32))


def shape_of(operator: str, *inputs: Value | None, **attributes: Any) -> tuple[Dim, ...]:
    return infer(operator, inputs, attributes)[0].shape


# -- static shapes


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "shape"),
    [
        ("Conv", [tensor(2, 3, 8, 9), tensor(4, 3, 3, 3), tensor(4)], {"strides": (2, 1)}, (2, 4, 3, 7)),
        ("MaxPool", [tensor(2, 3, 8, 8)], {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}, (2, 3, 4, 4)),
        ("Add", [tensor(2, 1, 4), tensor(3, 1)], {}, (2, 3, 4)),
        ("Reshape", [tensor(2, 3, 4), ints(0, -1)], {}, (2, 12)),
        ("Concat", [tensor(2, 3), tensor(2, 4), tensor(2, 1)], {"axis": -1}, (2, 8)),
        ("Resize", [tensor(1, 3, 10, 10), None, floats(1, 1, 0.7, 2.5)], {}, (1, 3, 7, 25)),
        ("Resize", [tensor(1, 3, 8, 8), None, None, ints(1, 3, 5, 20)], {"mode": "linear"}, (1, 3, 5, 20)),
    ],
)
def test_static_shapes(operator: str, inputs: list[Value | None], attributes: dict[str, Any], shape: Any) -> None:
    assert shape_of(operator, *inputs, **attributes) == shape


def test_several_outputs_have_types_of_their_own() -> None:
    values, indices = infer("TopK", [tensor("n", 9), ints(2)], {}, 2)
    assert (values, indices) == (TensorType(DType.float32, ("n", 2)), TensorType(DType.int64, ("n", 2)))
    assert infer("Cast", [tensor("n")], {"to": DType.bfloat16.value}) == [TensorType(DType.bfloat16, ("n",))]


def test_no_memory_is_asked_for() -> None:
    huge = 2**28  # a petabyte of products
    assert shape_of("MatMul", tensor(huge, 8), tensor(8, huge)) == (huge, huge)


# -- symbolic shapes hold for every size

IMAGE = tensor("n", 8, "h", "w")
ROWS = tensor("n", "s")
SYMBOLIC: dict[str, Case] = {
    "conv": ("Conv", [IMAGE, tensor(4, 8, 5, 5)], {"strides": (3, 2), "dilations": (2, 1), "pads": (1, 0, 2, 0)}),
    "conv same": ("Conv", [IMAGE, tensor(4, 8, 5, 5)], {"strides": (3, 2), "auto_pad": "SAME_LOWER"}),
    "conv transposed": ("ConvTranspose", [IMAGE, tensor(8, 4, 5, 5)], {"strides": (3, 2), "output_padding": (1, 1)}),
    "max pool": ("MaxPool", [IMAGE], {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "ceiling pool": ("MaxPool", [IMAGE], {"kernel_shape": (3, 2), "strides": (2, 3), "ceil_mode": 1}),
    "double": ("Resize", [IMAGE, None, floats(1, 1, 2, 2)], {}),
    "one and a half": ("Resize", [IMAGE, None, floats(1, 1, 1.5, 0.6)], {"mode": "linear"}),
    "seven tenths": ("Resize", [IMAGE, None, floats(1, 1, 0.7, 1.1)], {"mode": "cubic"}),
    "to a size": ("Resize", [IMAGE, None, None, ints(1, 8, 7, 9)], {}),
    "flatten": ("Flatten", [IMAGE], {"axis": 2}),
    "keep and infer": ("Reshape", [IMAGE, ints(0, 0, -1)], {}),
    "merge": ("Reshape", [tensor("n", "s", 12), ints(-1, 12)], {}),
    "split heads": ("Reshape", [tensor("n", "s", 12), ints(0, 0, 3, 4)], {}),
    "concat": ("Concat", [ROWS, tensor("n", "h"), tensor("n", 3)], {"axis": 1}),
    "broadcast": ("Add", [ROWS, tensor("n", 1)], {}),
    "broadcast ranks": ("Mul", [tensor("n", 1, "s"), tensor(4, 1)], {}),
    "choose": ("Where", [tensor("n", 1, dtype=DType.bool), ROWS, tensor(1)], {}),
    "pad": ("Pad", [ROWS, ints(0, 3, 0, -2)], {}),
    "reflect": ("Pad", [ROWS, ints(0, 2, 0, 1)], {"mode": "reflect"}),
    "every third": ("Slice", [ROWS, ints(0), ints(FAR), ints(1), ints(3)], {}),
    "backwards": ("Slice", [ROWS, ints(-1), ints(-FAR), ints(1), ints(-2)], {}),
    "up to four hundred": ("Slice", [ROWS, ints(0), ints(400), ints(1)], {}),
    "the last four hundred": ("Slice", [ROWS, ints(-400), ints(FAR), ints(1)], {}),
    "but the last four hundred": ("Slice", [ROWS, ints(0), ints(-400), ints(1)], {}),
    "from forty to fifty": ("Slice", [ROWS, ints(40), ints(50), ints(1), ints(3)], {}),
    "look up": ("Gather", [tensor(100, 16), tensor("n", "s", dtype=DType.int64)], {}),
    "reduce": ("ReduceMean", [IMAGE, ints(2)], {"keepdims": 0}),
    "global pool": ("GlobalAveragePool", [IMAGE], {}),
    "attend": ("MatMul", [tensor("n", 2, "s", 4), tensor("n", 2, 4, "h")], {}),
    "normalize": ("LayerNormalization", [tensor("n", "s", 8), tensor(8), tensor(8)], {}),
    "local response": ("LRN", [IMAGE], {"size": 3}),
    "einsum": ("Einsum", [tensor("n", "s", 4), tensor("n", "h", 4)], {"equation": "bik,bjk->bij"}),
    "lower triangle": ("Trilu", [tensor("s", "s")], {"upper": 0}),
    "crop": ("CenterCropPad", [ROWS, ints(10, 20)], {}),
}


def bound(value: Value | None, sizes: dict[str, int]) -> Value | None:
    if value is None or isinstance(value, Constant):
        return value
    return Value("x", TensorType(value.dtype, tuple(evaluate(dim, sizes) for dim in value.shape)))


@pytest.mark.parametrize("name", SYMBOLIC)
def test_a_symbolic_type_is_right_at_every_size(name: str) -> None:
    operator, inputs, attributes = SYMBOLIC[name]
    symbolic = shape_of(operator, *inputs, **attributes)
    for size in (3, 7, 8, 10, 31, 49, 352, 399, 401, 1000):
        sizes = {"n": 2, "s": size, "h": size, "w": size + 1}
        try:
            static = shape_of(operator, *(bound(value, sizes) for value in inputs), **attributes)
        except ModelError:
            continue  # smaller than the kernel
        assert tuple(evaluate(dim, sizes) for dim in symbolic) == static, f"at {size}"


def test_a_size_that_is_asked_for_stays_the_number_it_is() -> None:
    assert shape_of("Reshape", ROWS, ints(0, -1, 16)) == ("n", "s // 16", 16)
    assert shape_of("SpaceToDepth", IMAGE, blocksize=2) == ("n", 32, "h // 2", "w // 2")


def test_a_bound_up_to_thirty_two_is_taken_to_lie_inside() -> None:
    assert shape_of("Slice", ROWS, ints(0), ints(32), ints(1)) == ("n", 32)
    assert shape_of("Slice", ROWS, ints(-3), ints(FAR), ints(1)) == ("n", 3)
    assert shape_of("Slice", ROWS, ints(0), ints(33), ints(1)) == ("n", "Min(33, s)")
    assert shape_of("Slice", ROWS, ints(0), ints(10**9), ints(1)) == ("n", "s")


def test_the_kernel_of_a_convolution_is_that_of_its_weight() -> None:
    """Backends go by one or the other."""
    with pytest.raises(ModelError, match=r"kernel_shape is \[3, 3\], but the weight's is \[1, 1\]"):
        infer("Conv", [tensor(1, 2, 8, 8), tensor(2, 2, 1, 1)], {"kernel_shape": (3, 3)})


# -- what is computed from shapes


@pytest.fixture
def op() -> Builder:
    graph = Graph()
    graph.add_input("x", TensorType(DType.float32, ("batch", "length", 64)))
    return Builder(graph)


def test_a_reshape_follows_the_chain_that_made_its_shape(op: Builder) -> None:
    (x,) = op.graph.inputs
    batch, length = (op.Shape(x, start=axis, end=axis + 1) for axis in (0, 1))
    heads = op.Reshape(x, op.Concat(batch, length, [4], [-1], axis=0))
    assert heads.shape == ("batch", "length", 4, 16)
    assert op.Reshape(heads, op.Concat(op.Mul(batch, length), [64], axis=0)).shape == ("batch * length", 64)
    assert op.Expand(op.constant(np.ones((1, 1), np.float32)), op.Concat(length, length, axis=0)).shape == (
        "length",
        "length",
    )
    assert op.Range(0, op.Squeeze(length), 1).type == TensorType(DType.int64, ("length",))
    end = op.Cast(op.Squeeze(length), to=DType.int32)
    assert op.Range(np.int32(0), end, np.int32(1)).type == TensorType(DType.int32, ("length",))
    assert op.ConstantOfShape(op.Concat(batch, [7], axis=0)).shape == ("batch", 7)


@pytest.mark.parametrize("rows", [16, 40, 64, 512, 5000])
def test_a_position_table_is_cut_at_a_symbolic_end(op: Builder, rows: int) -> None:
    """However long the table is: that inputs are no longer than it, the model's author has seen to."""
    (x,) = op.graph.inputs
    table = op.constant(np.zeros((rows, 64), np.float32))
    length = op.Shape(x, start=1, end=2)
    positions = op.Slice(table, [0], length, [0])
    assert positions.shape == ("length", 64)
    assert op.Add(x, op.Unsqueeze(positions, [0])).shape == ("batch", "length", 64)
    assert op.Slice(table, op.Neg(length), [FAR], [0]).shape == ("length", 64)


# -- what would hold for one size alone


@pytest.mark.parametrize("width", [352, 416, 19392, 48, 34, 5, 1000])
def test_a_symbolic_size_is_never_taken_for_a_number(width: int) -> None:
    """Not even for one of the sizes with which torch's questions are answered."""
    for inputs in ([ROWS, tensor("n", width)], [tensor("n", width), ROWS]):
        with pytest.raises(
            ModelError, match=r"^Add\(float32\[n, (s|\d+)\], float32\[n, (s|\d+)\]\) can't be applied: "
        ):
            infer("Add", inputs, {})
    with pytest.raises(ModelError, match="can't be applied"):
        infer("MatMul", [ROWS, tensor(width, 3)], {})


def test_two_symbols_are_never_taken_for_one() -> None:
    sizes = scope(("a", "b")).sizes
    gap = sizes["b"].node.hint - sizes["a"].node.hint
    with pytest.raises(ModelError, match=r"Add\(.*\) can't be applied"):
        infer("Add", [tensor("b"), tensor(f"a + {gap}")], {})


def test_a_refusal_leaves_no_trace() -> None:
    names = ("n", "s")
    n, s = (scope(names).sizes[name].node.hint for name in names)
    for other in (tensor("n", s), tensor("n", f"n + {s - n}")):
        with pytest.raises(ModelError):
            infer("Add", [ROWS, other], {})
        assert shape_of("Relu", ROWS) == ("n", "s")


def test_types_do_not_depend_on_what_was_inferred_before() -> None:
    """A reshape that needs `s` to be a multiple of 16 doesn't make it one."""
    before = shape_of("Resize", ROWS, None, floats(1, 0.0625))
    shape_of("Reshape", ROWS, ints(0, -1, 16))
    assert shape_of("Resize", ROWS, None, floats(1, 0.0625)) == before == ("n", "s // 16")
    again = scope(("n", "s"))
    assert again.dim(again.size("16*(s//16)")) == "16 * (s // 16)"


# -- errors


def test_an_unknown_operator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match=r"^unknown operator com.microsoft::FusedMatMull; did you mean com.micro"):
        infer("com.microsoft::FusedMatMull", [], {})
    with pytest.raises(ModelError, match="^unknown operator zzz; write what it does in operators of the standard$"):
        infer("zzz", [], {})
    with pytest.raises(ModelError, match="QLinearSoftmax; ONNX Runtime writes it where it opt"):
        infer("com.microsoft::QLinearSoftmax", [], {})


def test_an_error_names_the_operator_the_types_and_torchs_reason() -> None:
    with pytest.raises(ModelError, match=re.escape("Gemm(float32[2, 3], float32[4, 5], none) can't be applied: ")):
        infer("Gemm", [tensor(2, 3), tensor(4, 5), None], {})
    with pytest.raises(ModelError, match=r"Relu\(.*\) can't be applied: .*unexpected keyword argument 'alpha'"):
        infer("Relu", [tensor(2)], {"alpha": 1.0})


@pytest.mark.parametrize("shape", [(1, 3), (1,), (4,)])
def test_normalisation_takes_a_number_for_each_channel(shape: tuple[int, ...]) -> None:
    one = tensor(3)
    with pytest.raises(ModelError, match=re.escape(f"{list(shape)} is not one number for each of 3 channels")):
        infer("BatchNormalization", [tensor("n", 3, 4), one, tensor(*shape), one, one], {})
    with pytest.raises(ModelError, match="is not one number for each"):
        infer("InstanceNormalization", [tensor("n", 3, 4), one, tensor(*shape)], {})


@pytest.mark.parametrize("axis", [2, -3])
@pytest.mark.parametrize("operator", ["ReduceMean", "Squeeze", "Gather", "Slice", "LayerNormalization"])
def test_an_axis_beyond_the_last_is_refused(operator: str, axis: int) -> None:
    x = tensor("n", 1)
    inputs, attributes = {
        "Gather": ([x, ints(0)], {"axis": axis}),
        "LayerNormalization": ([x, tensor(1)], {"axis": axis}),
        "Slice": ([x, ints(0), ints(1), ints(axis)], {}),
    }.get(operator, ([x, ints(axis)], {}))
    with pytest.raises(ModelError, match=f"can't be applied: there is no axis {axis} among 2"):
        infer(operator, inputs, attributes)


def test_an_axis_that_is_named_twice_is_refused() -> None:
    """Graph 5548 for Slice, of which the standard says nothing then."""
    with pytest.raises(ModelError, match="an axis is named twice"):
        infer("Unsqueeze", [tensor("n", 1), ints(1, -3)], {})
    with pytest.raises(ModelError, match="an axis is named twice"):
        infer("Slice", [tensor("n", 1), ints(0, 0), ints(1, 1), ints(0, -2)], {})


def test_a_condition_is_a_row() -> None:
    """Graph 15699: `Compress` took the coordinates of a matrix's true elements for places."""
    matrix = Graph().add_constant(np.array([[False, True, True]]), "condition")
    with pytest.raises(ModelError, match="its condition has 2 axes, and must have one"):
        infer("Compress", [tensor(3, 4), matrix], {})
    with pytest.raises(ValueError, match="its condition has 2 axes"):  # where the rank wasn't known before
        find_operator("Compress").function(torch.zeros(3, 4), torch.from_numpy(matrix.data))


def test_recurrent_weights_are_for_as_many_directions_as_it_runs_in() -> None:
    """Graph 16635: the type had the directions of the weights, and the tensor those of the attribute."""
    weights = [tensor(3, 1, 2), tensor(2, 12, 2), tensor(2, 12, 3)]
    with pytest.raises(ModelError, match="it runs in 1 of the 2 directions that its weights are for"):
        infer("LSTM", weights, {"hidden_size": 3})
    assert infer("LSTM", weights, {"hidden_size": 3, "direction": "bidirectional"})[0].dims == (3, 2, 1, 3)


def test_no_more_indices_than_axes_are_scattered_by() -> None:
    with pytest.raises(ModelError, match="3 indices for each element of a tensor of 2 axes"):
        infer("ScatterND", [tensor(4, 4), tensor(1, 3, dtype=DType.int64), tensor(1)], {})
    with pytest.raises(ModelError, match="indices for each element of a tensor of 2 axes"):
        infer("ScatterND", [tensor(4, 4), tensor("n", "n", dtype=DType.int64), tensor("n")], {})


def test_a_gemm_multiplies_matrices() -> None:
    """Graph 38574: a weight of three axes was multiplied, and no batch normalization could be folded into it."""
    with pytest.raises(ModelError, match="it multiplies matrices, not tensors of 2 and 3 axes"):
        infer("Gemm", [tensor(2, 3), tensor(1, 3, 4)], {})


def test_attention_is_over_tensors_of_four_axes() -> None:
    """Graph 38876: its type had four axes, and values of five gave it five."""
    with pytest.raises(ModelError, match="queries, keys and values have 4 axes, not 4, 4 and 5"):
        infer("ai.onnx.preview::FlexAttention", [tensor(1, 2, 4, 8), tensor(1, 2, 4, 8), tensor(1, 1, 2, 4, 8)], {})


def test_a_causal_convolution_is_given_as_much_of_the_past_as_it_sees() -> None:
    """Graph 43290: four steps were given to filters that see three, and ONNX Runtime returned three."""
    with pytest.raises(ModelError, match="filters of 4 steps follow 3 of the past, not 5"):
        infer("CausalConvWithState", [tensor(2, 4, 8), tensor(4, 1, 4), tensor(4), tensor(2, 4, 5)], {}, 2)


def test_indices_are_gathered_by_batches_of_the_data() -> None:
    """Graph 24808: one batch of data was repeated for two of indices, and TVM read beyond it."""
    data, indices = tensor("n", 2, 2), tensor("n", 1, dtype=DType.int64)
    assert infer("GatherND", [data, indices], {"batch_dims": 1})[0].dims == ("n", 2)
    with pytest.raises(ModelError, match=r"batches of \[1\] and \[2\] elements"):
        infer("GatherND", [tensor(1, 2, 2), tensor(2, 1, dtype=DType.int64)], {"batch_dims": 1})


def test_torch_says_nothing_of_its_own(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError):
        infer("MatMul", [ROWS, tensor("k", "n")], {})
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


# -- reinfer


def chain() -> tuple[Graph, Node, Node]:
    graph = Graph()
    op = Builder(graph, location=Location("head.fc"))
    hidden = op.MatMul(graph.add_input("x", TensorType(DType.float32, ("batch", 4))), np.ones((4, 8), np.float32))
    out = op.Softmax(op.MatMul(hidden, np.ones((8, 2), np.float32)))
    graph.outputs["y"] = out
    first, second, _ = graph.nodes
    return graph, first, second


def test_refreshing_carries_a_changed_weight_through() -> None:
    graph, first, second = chain()
    graph.set_input(first, 1, graph.add_constant(np.ones((4, 6), np.float32)))
    graph.set_input(second, 1, graph.add_constant(np.ones((6, 3), np.float32)))
    reinfer(graph)
    assert [node.output.shape for node in graph.nodes] == [("batch", 6), ("batch", 3), ("batch", 3)]


def test_refreshing_names_the_layer_that_no_longer_fits() -> None:
    graph, first, _ = chain()
    graph.set_input(first, 1, graph.add_constant(np.ones((4, 6), np.float32)))
    with pytest.raises(ModelError, match=r"^head.fc: MatMul\(float32\[batch, 6\], float32\[8, 2\]\) can't be applied"):
        reinfer(graph)


@pytest.mark.parametrize(
    ("sizes", "place", "size"), [("[2] = [1, 3]", 1, 3), ("[2] = [1, 3]", -2, 1), ("[] = 3", 0, 3), ("[] = 3", 1, 1)]
)
def test_a_part_of_a_split_at_constant_places_has_a_size(sizes: str, place: int, size: int) -> None:
    graph = parse_graph(f"""graph "g"(%x: float32[n, 4]) {{
      const %sizes: int64{sizes}
      const %place: int64[] = {place}
      %s: sequence(float32[n, 4]) = SplitToSequence(%x, %sizes) {{axis = 1}}
      %y: float32[n, 4] = SequenceAt(%s, %place)
      return y = %y
    }}""")
    reinfer(graph)
    assert str(graph.outputs["y"].type) == f"float32[n, {size}]"


def test_torch_keeps_no_shape_that_was_asked_about() -> None:
    def kept() -> int:
        return len(FakeTensorMode.cache) + len(scope(("batch",)).environment.fake_tensor_cache)

    before = kept()
    for width in range(1000, 1008):
        assert shape_of("Relu", tensor("batch", width)) == ("batch", width)
    assert kept() == before


def test_a_size_that_fits_at_one_number_alone_is_not_taken_for_what_is_that_number_there() -> None:
    """A third of the rows is 5 or broadcast; of the sizes tried it is 1 where that fits, as the other axis is."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("n",)))
    sizes = graph.add_input("sizes", TensorType(DType.int64, (2,)))
    third = op.Split(op.ReduceSum(op.Reshape(x, sizes), [1], keepdims=0), num_outputs=3, outputs=3)[0]
    row = graph.add_input("row", TensorType(DType.float32, (1, 5)))
    found = op.Add(row, op.Unsqueeze(third, [0])).type
    assert found.shape[0] != op.Unsqueeze(third, [0]).type.shape[1]
