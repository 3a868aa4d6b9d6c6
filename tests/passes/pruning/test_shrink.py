"""Removing channels: what is left must compute what the whole did while nobody read the removed ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.analysis.channels import channel_groups
from planish.ir.graph import Graph, Value
from planish.ir.verify import verify
from planish.passes.pruning.shrink import shrink


def remove_some(graph: Graph, choose: Callable[[int], list[int]]) -> Graph:
    """Take channels out of every group that isn't frozen; returns the whole graph with these channels unread."""
    unread = graph.clone()
    kept: dict[tuple[Value, int], np.ndarray] = {}
    for group in channel_groups(graph):
        removed = choose(group.size) if group.producers and not group.frozen else []
        if not removed:
            continue
        for _, (value, axis, indices) in group.consumers:
            weight = unread.constants[value.name]
            weight.data = weight.data.copy()
            np.moveaxis(weight.data, axis, 0)[indices[removed]] = 0
        for value, axis, indices in group.members:
            size = value.shape[axis]
            assert isinstance(size, int)
            kept.setdefault((value, axis), np.ones(size, bool))[indices[removed]] = False
    shrink(graph, kept)
    verify(graph)
    return unread


def first_half(size: int) -> list[int]:
    return list(range(size // 2))


def basic_block(net: Any) -> Value:
    """Two of ResNet's, the second with a projection."""
    h = net.op.Relu(net.norm(net.conv(net.x, "stem", 8, 3)))
    inner = net.norm(net.conv(net.op.Relu(net.norm(net.conv(h, "a", 8, 3))), "b", 8, 3))
    h = net.op.Relu(net.op.Add(h, inner))
    inner = net.norm(net.conv(net.op.Relu(net.norm(net.conv(h, "c", 12, 3))), "d", 12, 3))
    return net.op.Relu(net.op.Add(net.conv(h, "projection", 12), inner))


def inverted_residual(net: Any) -> Value:
    """MobileNetV2's, with the gate of MobileNetV3."""
    h = net.conv(net.x, "stem", 8, 3)
    inner = net.op.Clip(net.norm(net.conv(h, "expand", 24)), 0.0, 6.0)
    inner = net.op.HardSwish(net.norm(net.conv(inner, "depthwise", 24, 3, group=24)))
    gate = net.op.Relu(net.conv(net.op.GlobalAveragePool(inner), "squeeze", 6))
    inner = net.op.Mul(inner, net.op.HardSigmoid(net.conv(gate, "excite", 24)))
    return net.op.Add(h, net.conv(inner, "project", 8))


def dense_block(net: Any) -> Value:
    """DenseNet's, which also reads the image."""
    features = [net.x]
    for index in range(3):
        h = net.op.Concat(*features, axis=1) if index else net.x
        features.append(net.conv(net.op.Relu(net.norm(h)), f"grow{index}", 4, 3))
    return net.conv(net.op.Concat(*features, axis=1), "transition", 10)


def grouped(net: Any) -> Value:
    """A grouped convolution, as ResNeXt has it."""
    h = net.op.Relu(net.conv(net.op.Relu(net.conv(net.x, "reduce", 12)), "grouped", 8, 3, group=4))
    return net.conv(h, "expand", 6)


def halves(net: Any) -> Value:
    """A split whose parts go different ways, as ShuffleNetV2 has it."""
    left, right = net.op.Split(net.conv(net.x, "stem", 8), axis=1, num_outputs=2, outputs=2)
    return net.op.Concat(net.op.Relu(left), net.conv(right, "branch", 6, 3), axis=1)


def resized(net: Any) -> Value:
    """An upsampling to a size in numbers, in a network without symbolic dimensions."""
    h = net.op.Slice(net.conv(net.x, "stem", 6), [0], [1], [0])
    return net.op.Resize(h, None, None, [1, 6, 16, 16], mode="nearest")


@pytest.mark.parametrize("block", [basic_block, inverted_residual, dense_block, grouped, halves])
def test_half_of_all_channels_leaves_a_network_that_computes_the_rest(
    block: Callable[[Any], Value], new_net: Any
) -> None:
    net = new_net()
    graph = net.classify(block(net))
    widths = {name: constant.data.size for name, constant in graph.constants.items() if constant.data.ndim == 4}

    unread = remove_some(graph, first_half)

    assert np.allclose(net.run(graph), net.run(unread), atol=1e-4, rtol=1e-4)
    assert all(graph.constants[name].data.size < size for name, size in widths.items())


def test_a_depthwise_convolution_loses_groups(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(inverted_residual(net))

    remove_some(graph, first_half)

    (depthwise,) = (node for node in graph.nodes if node.location.module == "depthwise" and node.operator == "Conv")
    assert depthwise.attributes["group"] == 12
    assert graph.constants["depthwise"].data.shape == (12, 1, 3, 3)


def test_a_grouped_convolution_keeps_its_groups(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(grouped(net))

    remove_some(graph, first_half)

    (convolution,) = (node for node in graph.nodes if node.location.module == "grouped" and node.operator == "Conv")
    assert convolution.attributes["group"] == 4
    assert graph.constants["grouped"].data.shape == (4, 2, 3, 3)


@pytest.mark.parametrize("shape", [[-1, 128], [0, 128], [0, -1]])
def test_flattened_channels_go_as_runs_of_columns(shape: list[int], new_net: Any) -> None:
    net = new_net()
    h = net.op.MaxPool(net.op.Relu(net.conv(net.x, "conv", 8, 3)), kernel_shape=(2, 2), strides=(2, 2))
    net.graph.outputs["y"] = net.linear(net.op.Reshape(h, shape), "head", 10)

    unread = remove_some(net.graph, first_half)

    assert net.graph.constants["head"].data.shape == (10, 64)
    assert np.allclose(net.run(net.graph), net.run(unread), atol=1e-4, rtol=1e-4)


def test_sizes_that_a_resize_holds_are_brought_up_to_date(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(resized(net))

    unread = remove_some(graph, first_half)

    assert np.allclose(net.run(graph), net.run(unread), atol=1e-4, rtol=1e-4)


def test_attention_loses_whole_heads(new_net: Any) -> None:
    net = new_net()
    rows = net.op.Reshape(net.x, [0, 24, 8])
    heads = []
    for name in ("query", "key", "value"):
        projected = net.op.MatMul(rows, net.op.constant(net.array(8, 12), name))
        heads.append(net.op.Transpose(net.op.Reshape(projected, [0, 0, 4, 3]), perm=(0, 2, 1, 3)))
    scores = net.op.Softmax(net.op.MatMul(heads[0], net.op.Transpose(heads[1], perm=(0, 1, 3, 2))), axis=-1)
    mixed = net.op.Transpose(net.op.MatMul(scores, heads[2]), perm=(0, 2, 1, 3))
    net.graph.outputs["y"] = net.op.MatMul(net.op.Reshape(mixed, [0, 0, 12]), net.op.constant(net.array(12, 8), "out"))

    unread = remove_some(net.graph, first_half)

    shapes = {name: net.graph.constants[name].data.shape for name in ("query", "key", "value", "out")}
    assert shapes == {"query": (8, 6), "key": (8, 6), "value": (8, 6), "out": (6, 8)}
    assert np.allclose(net.run(net.graph), net.run(unread), atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_network_without_some_channels_computes_the_rest(
    new_net: Any, networks: Callable[[Any], Any], data: st.DataObject
) -> None:
    graph = data.draw(networks(new_net))
    shape = new_net.run(graph).shape

    def choose(size: int) -> list[int]:
        return data.draw(st.lists(st.integers(0, size - 1), max_size=size - 1, unique=True))

    unread = remove_some(graph, choose)

    outputs, expected = new_net.run(graph), new_net.run(unread)
    assert outputs.shape == shape
    assert np.allclose(outputs, expected, rtol=1e-3, atol=1e-4 * (1 + np.abs(expected).max()))
