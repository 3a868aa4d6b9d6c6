"""Coupled channels: what each operator ties, how indices map, and what freezes a group."""

import numpy as np
import pytest

from planish.ir.analysis.channels import ChannelGroup, channel_groups
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.types import DType, TensorType


class Net:
    """A graph under construction whose weights are told apart by name."""

    def __init__(self, *shape: int | str) -> None:
        self.graph = Graph()
        self.op = Builder(self.graph, location=Location("layer"))
        self.x = self.graph.add_input("x", TensorType(DType.float32, shape or ("batch", 3, 8, 8)))

    def weight(self, name: str, *shape: int) -> Value:
        return self.op.constant(np.ones(shape, np.float32), name)

    def conv(self, x: Value, name: str, channels: int, kernel: int = 1, group: int = 1) -> Value:
        width = x.shape[1]
        assert isinstance(width, int)
        return self.op.Conv(x, self.weight(name, channels, width // group, kernel, kernel), group=group)

    def group_of(self, value: Value | str, axis: int) -> ChannelGroup:
        """The only group that runs along an axis."""
        (group,) = self.groups_of(value, axis)
        return group

    def groups_of(self, value: Value | str, axis: int) -> list[ChannelGroup]:
        value = self.graph.constants[value] if isinstance(value, str) else value
        return [group for group in channel_groups(self.graph) if (value, axis) in axes(group)]

    def returns(self, value: Value) -> None:
        self.graph.outputs["y"] = value


def axes(group: ChannelGroup) -> dict[tuple[Value, int], list[list[int]]]:
    return {(value, axis): indices.tolist() for value, axis, indices in group.members}


def names(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(value.name, axis) for value, axis, _ in group.members}


def one_each(count: int) -> list[list[int]]:
    return [[index] for index in range(count)]


def test_a_convolution_ties_its_filters_with_all_that_follows_up_to_the_next_one() -> None:
    net = Net()
    h = net.op.Conv(net.x, net.weight("w0", 4, 3, 3, 3), net.weight("b0", 4))
    statistics = [net.weight(name, 4) for name in ("scale", "shift", "mean", "variance")]
    h = net.op.Relu(net.op.BatchNormalization(h, *statistics))
    h = net.op.MaxPool(h, kernel_shape=(2, 2))
    net.returns(net.conv(h, "w1", 5))

    group = net.group_of("w0", 0)

    constants = {"w0": 0, "b0": 0, "scale": 0, "shift": 0, "mean": 0, "variance": 0, "w1": 1}
    activations = {"conv": 1, "batchnormalization": 1, "relu": 1, "maxpool": 1}
    assert names(group) == {*constants.items(), *activations.items()}
    assert group.frozen is None
    assert group.size == 4
    assert [(node.operator, member.value.name) for node, member in group.producers] == [("Conv", "w0")]
    assert [(node.operator, member.value.name) for node, member in group.consumers] == [("Conv", "w1")]


def test_a_residual_addition_ties_the_layers_of_both_branches() -> None:
    net = Net()
    h = net.conv(net.x, "stem", 4)
    net.returns(net.conv(net.op.Relu(net.op.Add(h, net.conv(net.op.Relu(h), "branch", 4))), "head", 5))

    group = net.group_of("stem", 0)

    assert {("stem", 0), ("branch", 0), ("branch", 1), ("head", 1)} <= names(group)
    assert {member.value.name for _, member in group.producers} == {"stem", "branch"}


def test_a_depthwise_convolution_passes_channels_through_with_its_multiplier() -> None:
    net = Net()
    h = net.conv(net.conv(net.x, "w0", 3), "depthwise", 6, group=3)
    net.returns(net.conv(h, "w1", 5))

    group = net.group_of("w0", 0)

    indices = axes(group)
    assert indices[net.graph.constants["w0"], 0] == one_each(3)
    assert indices[net.graph.constants["depthwise"], 0] == [[0, 1], [2, 3], [4, 5]]
    assert indices[net.graph.constants["w1"], 1] == [[0, 1], [2, 3], [4, 5]]


def test_a_grouped_convolution_ties_the_same_place_in_every_group() -> None:
    net = Net()
    h = net.conv(net.conv(net.x, "w0", 6), "grouped", 4, group=2)
    net.returns(net.conv(h, "w1", 5))

    read, written = net.group_of("grouped", 1), net.group_of("grouped", 0)

    assert axes(read)[net.graph.constants["w0"], 0] == [[0, 3], [1, 4], [2, 5]]
    assert axes(read)[net.graph.constants["grouped"], 1] == one_each(3)
    assert axes(written)[net.graph.constants["w1"], 1] == [[0, 2], [1, 3]]


def test_a_concatenation_keeps_its_parts_apart_so_that_only_the_image_is_frozen() -> None:
    net = Net()
    h = net.conv(net.x, "w0", 4)
    net.returns(net.conv(net.op.Concat(net.x, h, net.op.Relu(h), axis=1), "w1", 5))

    image, features = net.groups_of("w1", 1)

    assert image.frozen == "%x is an input of the graph"
    assert axes(image)[net.graph.constants["w1"], 1] == one_each(3)
    assert features.frozen is None
    assert axes(features)[net.graph.constants["w1"], 1] == [[3, 7], [4, 8], [5, 9], [6, 10]]


def test_a_split_ties_each_part_with_its_stretch() -> None:
    net = Net()
    first, second = net.op.Split(net.conv(net.x, "w0", 6), [2, 4], axis=1, outputs=2)
    net.returns(net.op.Add(net.conv(first, "w1", 5), net.conv(second, "w2", 5)))

    assert axes(net.group_of("w1", 1))[net.graph.constants["w0"], 0] == [[0], [1]]
    assert axes(net.group_of("w2", 1))[net.graph.constants["w0"], 0] == [[2], [3], [4], [5]]


@pytest.mark.parametrize("operator", ["Flatten", "Reshape"])
def test_flattening_makes_a_run_of_columns_of_each_channel(operator: str) -> None:
    net = Net("batch", 3, 2, 2)
    h = net.conv(net.x, "w0", 2)
    flat = net.op.Flatten(h) if operator == "Flatten" else net.op.Reshape(h, [-1, 8])
    net.returns(net.op.Gemm(flat, net.weight("w1", 5, 8), transB=1))

    group = net.group_of("w0", 0)

    assert axes(group)[net.graph.constants["w1"], 1] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert group.frozen is None


def test_splitting_an_axis_ties_the_outer_part_and_freezes_the_inner_one() -> None:
    net = Net("batch", "time", 4)
    heads = net.op.Reshape(net.op.MatMul(net.x, net.weight("w0", 4, 6)), [0, 0, 3, 2])
    heads = net.op.Transpose(heads, perm=(0, 2, 1, 3))
    merged = net.op.Reshape(net.op.Transpose(heads, perm=(0, 2, 1, 3)), [0, 0, 6])
    net.returns(net.op.MatMul(merged, net.weight("w1", 6, 4)))

    group = net.group_of("w0", 1)

    assert axes(group)[net.graph.constants["w1"], 0] == [[0, 1], [2, 3], [4, 5]]
    assert axes(group)[heads, 1] == one_each(3)
    assert group.frozen is None
    assert "Reshape" in (net.group_of(heads, 3).frozen or "")


def test_heads_that_are_multiplied_with_images_are_found() -> None:
    net = Net(2, 3, 4, 4)
    heads = net.op.Reshape(net.conv(net.x, "w0", 6), [6, 2, 16])  # three heads of two channels, for each of two images
    heads = net.op.Softmax(net.op.MatMul(net.op.Transpose(heads, perm=(0, 2, 1)), heads), axis=2)
    net.returns(net.conv(net.op.Reshape(heads, [2, 48, 4, 4]), "w1", 5))

    group = net.group_of("w0", 0)

    assert group.frozen is None
    assert axes(group)[net.graph.constants["w0"], 0] == [[0, 1], [2, 3], [4, 5]]
    assert axes(group)[heads, 0] == [[0, 3], [1, 4], [2, 5]]


def test_a_convolution_of_one_place_keeps_places() -> None:
    net = Net(2, 3, 8, 8)
    h = net.op.Conv(net.op.Transpose(net.conv(net.x, "w0", 4), perm=(0, 2, 1, 3)), net.weight("w1", 5, 8, 1, 3))
    net.returns(net.op.Conv(net.op.Transpose(h, perm=(0, 2, 1, 3)), net.weight("w2", 5, 4, 1, 3)))

    assert ("w2", 1) in names(net.group_of("w0", 0))
    assert net.group_of("w0", 0).frozen is None


def test_unequal_regrouping_freezes() -> None:
    net = Net("batch", 3, 4, 9)
    h = net.op.Reshape(net.conv(net.x, "w0", 4), [0, 6, 24])
    net.returns(net.op.MatMul(h, net.weight("w1", 24, 5)))

    assert "Reshape in layer" in (net.group_of("w0", 0).frozen or "")


def test_dropping_and_adding_ones_keeps_channels() -> None:
    net = Net()
    h = net.op.Squeeze(net.op.GlobalAveragePool(net.conv(net.x, "w0", 4)), [2, 3])
    h = net.op.Unsqueeze(net.op.Gemm(h, net.weight("w1", 4, 6)), [2, 3])
    net.returns(net.conv(h, "w2", 5))

    assert ("w1", 0) in names(net.group_of("w0", 0))
    assert ("w2", 1) in names(net.group_of("w1", 1))
    assert net.group_of("w1", 1).frozen is None


def test_gemm_finds_its_axes_under_transposition() -> None:
    net = Net(4, "batch")
    h = net.op.Gemm(net.x, net.weight("w0", 6, 4), net.weight("b0", 6), transA=1, transB=1)
    net.returns(net.op.Gemm(h, net.weight("w1", 6, 5)))

    group = net.group_of("w0", 0)

    assert {("b0", 0), ("w1", 0)} <= names(group)
    assert group.frozen is None


def test_a_transposed_convolution_has_its_outputs_on_the_second_axis() -> None:
    net = Net()
    h = net.op.ConvTranspose(net.x, net.weight("w0", 3, 4, 2, 2), net.weight("b0", 4))
    h = net.op.ConvTranspose(h, net.weight("depthwise", 4, 1, 2, 2), group=4)
    net.returns(net.conv(h, "w1", 5))

    group = net.group_of("w0", 1)

    assert {("b0", 0), ("depthwise", 0), ("w1", 1)} <= names(group)
    assert [member.value.name for node, member in group.producers if node.outputs[0].name == "convtranspose"] == ["w0"]
    assert group.frozen is None


def test_operands_that_broadcast_along_channels_are_part_of_the_group() -> None:
    net = Net()
    h = net.conv(net.x, "w0", 4)
    gate = net.op.Sigmoid(net.conv(net.op.GlobalAveragePool(h), "gate", 4))
    h = net.op.Add(net.op.Mul(h, gate), net.weight("bias", 4, 1, 1))
    net.returns(net.conv(net.op.PRelu(h, net.weight("slope", 4, 1, 1)), "w1", 5))

    assert {("w0", 0), ("gate", 0), ("gate", 1), ("bias", 0), ("slope", 0), ("w1", 1)} <= names(net.group_of("w0", 0))


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("Pad", [[0, 0, 1, 1, 0, 0, 1, 1]], {}),
        ("Pad", [[1, 1], None, [2]], {}),
        ("ReduceMean", [[2, 3]], {}),
        ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
        ("Slice", [[1], [5], [3]], {}),
        ("Softmax", [], {"axis": 3}),
        ("Transpose", [], {"perm": (0, 1, 3, 2)}),
        ("InstanceNormalization", [np.ones(4, np.float32), np.ones(4, np.float32)], {}),
    ],
)
def test_an_operator_on_other_axes_keeps_channels(operator: str, constants: list, attributes: dict) -> None:
    net = Net(2, 3, 8, 8)
    h = net.op(operator, net.conv(net.x, "w0", 4), *constants, **attributes)
    net.returns(net.conv(h, "w1", 5))

    group = net.group_of("w0", 0)

    assert group.frozen is None
    assert ("w1", 1) in names(group)


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("Pad", [[0, 1, 0, 0, 0, 1, 0, 0]], {}),
        ("ReduceMax", [[1]], {}),
        ("Slice", [[3], [-9], [1], [-1]], {}),
        ("Softmax", [], {"axis": 1}),
        ("Gather", [np.array([[0, 2]])], {"axis": 1}),
        ("CumSum", [np.array(1)], {}),
    ],
)
def test_an_operator_that_mixes_channels_freezes_them_and_is_named(
    operator: str, constants: list, attributes: dict
) -> None:
    net = Net(2, 3, 8, 8)
    net.returns(net.op(operator, net.conv(net.x, "w0", 4), *constants, **attributes))

    assert net.group_of("w0", 0).frozen == f"{operator} in layer doesn't keep them apart"


@pytest.mark.parametrize(
    ("operator", "constants", "attributes"),
    [
        ("LayerNormalization", [np.ones((4, 8, 8), np.float32)], {"axis": 1}),
        ("RMSNormalization", [np.ones((4, 8, 8), np.float32)], {"axis": 1}),
        ("LpNormalization", [], {"axis": 1}),
        ("ReduceMean", [[1]], {}),
        ("ReduceL2", [[1]], {}),
    ],
)
def test_of_what_is_summed_up_channels_can_go_by_themselves(operator: str, constants: list, attributes: dict) -> None:
    net = Net(2, 3, 8, 8)
    h = net.conv(net.x, "w0", 4)
    net.returns(net.conv(net.op.Mul(h, net.op(operator, h, *constants, **attributes)), "w1", 5))

    group = net.group_of("w0", 0)

    assert group.frozen is None
    assert axes(group)[net.graph.constants["w1"], 1] == one_each(4)


@pytest.mark.parametrize(
    ("operator", "constants"), [("Slice", [[1], [3], [1]]), ("Gather", [np.array([1, 2])])], ids=["Slice", "Gather"]
)
def test_channels_that_are_taken_are_apart_from_those_that_stay(operator: str, constants: list) -> None:
    net = Net()
    h = net.conv(net.x, "w0", 4)
    taken = net.op(operator, h, *constants, **({} if operator == "Slice" else {"axis": 1}))
    net.returns(net.op.Add(net.conv(taken, "w1", 5), net.conv(h, "w2", 5)))

    taken, left = (net.groups_of("w2", 1)[place] for place in (1, 0))

    assert axes(taken)[net.graph.constants["w1"], 1] == [[0], [1]]
    assert axes(taken)[net.graph.constants["w2"], 1] == [[1], [2]]
    assert axes(left)[net.graph.constants["w2"], 1] == [[0], [3]]


def test_a_stride_takes_one_channel_of_each_step() -> None:
    net = Net()
    h = net.conv(net.x, "w0", 5)
    even, odd = (net.op.Slice(h, [start], [5], [1], [2]) for start in (0, 1))
    net.returns(net.op.Add(net.conv(even, "w1", 5), net.conv(odd, "w2", 5)))

    whole, rest = net.groups_of("w0", 0)

    assert axes(whole)[net.graph.constants["w0"], 0] == [[0, 1], [2, 3]]
    assert axes(whole)[net.graph.constants["w2"], 1] == [[0], [1]]
    assert axes(rest)[net.graph.constants["w1"], 1] == [[2]]


def test_what_an_expand_and_a_tile_repeat_goes_with_the_rest() -> None:
    net = Net("batch", 3, 8, 8)
    mean = net.op.ReduceMean(net.conv(net.x, "w0", 4), [1])
    wide = net.op.Mul(net.op.Expand(mean, [1, 6, 1, 1]), net.op.Tile(net.conv(net.x, "w1", 3), [1, 2, 1, 1]))
    net.returns(net.conv(net.op.Mul(wide, net.op.Tile(mean, [1, 6, 1, 1])), "w2", 5))

    group = net.group_of("w2", 1)

    assert group.frozen is None
    assert axes(group)[net.graph.constants["w1"], 0] == one_each(3)
    assert axes(group)[net.graph.constants["w2"], 1] == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_a_hidden_unit_is_a_row_of_every_gate(operator: str, gates: int) -> None:
    net = Net(5, "batch", 4)
    weights = [net.weight("w0", 2, 2 * gates, 4), net.weight("r0", 2, 2 * gates, 2), net.weight("b0", 2, 4 * gates)]
    h = net.op.Transpose(net.op(operator, net.x, *weights, direction="bidirectional"), perm=(0, 2, 1, 3))
    net.returns(net.op.MatMul(net.op.Reshape(h, [0, 0, 4]), net.weight("w1", 4, 3)))

    group = net.group_of("w0", 1)

    indices = {(value.name, axis): member for (value, axis), member in axes(group).items()}
    rows = [[unit + 2 * gate for gate in range(gates)] for unit in range(2)]
    assert group.frozen is None
    assert indices["w0", 1] == indices["r0", 1] == rows
    assert indices["b0", 1] == [[unit + 2 * gate for gate in range(2 * gates)] for unit in range(2)]
    assert indices["r0", 2] == one_each(2)
    assert indices["w1", 0] == [[0, 2], [1, 3]]
    assert {(node.operator, member.value.name, member.axis) for node, member in group.producers} == {
        (operator, "w0", 1),
        (operator, "r0", 1),
    }


def test_what_the_graph_returns_is_frozen() -> None:
    net = Net()
    net.returns(net.conv(net.x, "w0", 4))

    assert net.group_of("w0", 0).frozen == "they are the graph's output 'y'"


def test_a_reshape_to_a_shape_that_no_constant_can_say_freezes() -> None:
    net = Net("a", "b", 3, 4)
    h = net.op.MatMul(net.x, net.weight("w0", 4, 6))
    swapped = net.op.Concat(net.op.Shape(net.x, start=1, end=2), net.op.Shape(net.x, start=0, end=1), [18], axis=0)
    net.returns(net.op.MatMul(net.op.Reshape(h, swapped), net.weight("w1", 18, 5)))

    assert "Reshape" in (net.group_of("w0", 1).frozen or "")


def test_quantization_by_channel_takes_its_scales_along() -> None:
    net = Net()
    integers, scales = net.op.constant(np.ones((4, 3, 1, 1), np.int8), "integers"), net.weight("scales", 4)
    h = net.op.Conv(net.x, net.op.DequantizeLinear(integers, scales, axis=0))
    net.returns(net.conv(h, "w1", 5))

    assert {("integers", 0), ("scales", 0), ("w1", 1)} <= names(net.group_of("scales", 0))
