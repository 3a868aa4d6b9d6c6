"""Removing channels: what is left must compute what the whole did while nobody read the removed ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from removal import agree, first_half, remove_some

from planish.ir.graph import Location, Value


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


def shuffled(net: Any) -> Value:
    """ShuffleNet's: halves are put together and their channels dealt out to both."""
    left, right = net.op.Split(net.conv(net.x, "stem", 8), axis=1, num_outputs=2, outputs=2)
    h = net.op.Concat(left, net.op.Relu(net.conv(right, "branch", 4, 3)), axis=1)
    dealt = net.op.Transpose(net.op.Reshape(h, [0, 2, 4, 8, 8]), perm=(0, 2, 1, 3, 4))
    left, right = net.op.Split(net.op.Reshape(dealt, [0, 8, 8, 8]), axis=1, num_outputs=2, outputs=2)
    return net.op.Concat(left, net.conv(right, "last", 4, 3), axis=1)


def group_normed(net: Any) -> Value:
    """A normalization over groups of channels, of which whole ones go."""
    h = net.conv(net.x, "stem", 8, 3)
    return net.op.Relu(net.op.GroupNormalization(h, net.array(8), net.array(8), num_groups=4))


def taken(net: Any) -> Value:
    """Channels that a Slice and a Gather take, as GhostNet and HarDNet do."""
    h = net.conv(net.x, "stem", 8, 3)
    parts = net.op.Slice(h, [-6], [100], [1]), net.op.Gather(h, net.op.constant(np.array([7, 0, 3])), axis=1)
    return net.op.Concat(
        *(net.conv(part, name, 4, 3) for part, name in zip(parts, ("left", "right"), strict=True)), axis=1
    )


def interleaved(net: Any) -> Value:
    """Gates between the channels that they scale, as GPT-OSS has them, and means that are spread over all."""
    h = net.conv(net.x, "stem", 16, 3)
    even, odd = (net.op.Slice(h, [start], [16], [1], [2]) for start in (0, 1))
    mean = net.op.ReduceMean(even, [1])
    wide = net.op.Add(net.op.Expand(mean, [1, 8, 1, 1]), net.op.Tile(mean, [1, 8, 1, 1]))
    repeated = net.op.Tile(net.conv(net.x, "twice", 4), [1, 2, 1, 1])
    return net.op.Add(net.op.Add(net.op.Mul(even, net.op.Sigmoid(odd)), wide), repeated)


def normed_over_channels(net: Any) -> Value:
    """ConvNeXt's: the width of the stream is normalized, and it is gated by its mean and its norm."""
    h = net.conv(net.x, "stem", 8, 3)
    last = net.op.LayerNormalization(net.op.Transpose(h, perm=(0, 2, 3, 1)), net.array(8), net.array(8), axis=-1)
    h = net.op.Add(h, net.conv(net.op.Transpose(last, perm=(0, 3, 1, 2)), "inner", 8))
    gate = net.op.Add(net.op.ReduceMean(h, [1]), net.op.ReduceL2(h, [1]))
    h = net.op.GroupNormalization(h, net.array(8), net.array(8), num_groups=1)
    return net.op.Mul(net.op.LpNormalization(h, axis=1), gate)


@pytest.mark.parametrize(
    "block",
    [
        basic_block,
        inverted_residual,
        dense_block,
        grouped,
        halves,
        shuffled,
        group_normed,
        taken,
        interleaved,
        normed_over_channels,
    ],
)
def test_half_of_all_channels_leaves_a_network_that_computes_the_rest(
    block: Callable[[Any], Value], new_net: Any
) -> None:
    net = new_net()
    graph = net.classify(block(net))
    widths = {name: constant.data.size for name, constant in graph.constants.items() if constant.data.ndim == 4}

    masked = remove_some(graph, first_half)

    assert agree(graph, net.images(), masked)
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

    masked = remove_some(net.graph, first_half)

    assert net.graph.constants["head"].data.shape == (10, 64)
    assert agree(net.graph, net.images(), masked)


def test_sizes_that_a_resize_holds_are_brought_up_to_date(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(resized(net))

    masked = remove_some(graph, first_half)

    assert agree(graph, net.images(), masked)


# -- attention; each returns four heads of queries side by side, float[batch, 24, 12]


def linear(net: Any, x: Value, name: str, outputs: int) -> Value:
    net.op.location = Location(name)
    return net.op.MatMul(x, net.op.constant(net.array(x.shape[-1], outputs), name))


def heads(net: Any, x: Value, count: int) -> Value:
    return net.op.Transpose(net.op.Reshape(x, [0, 0, count, 3]), perm=(0, 2, 1, 3))


def scored(net: Any, query: Value, key: Value, value: Value) -> Value:
    """Attention in single operators."""
    scores = net.op.Softmax(net.op.MatMul(query, net.op.Transpose(key, perm=(0, 1, 3, 2))), axis=-1)
    return net.op.Reshape(net.op.Transpose(net.op.MatMul(scores, value), perm=(0, 2, 1, 3)), [0, 0, 12])


def apart(net: Any, rows: Value) -> Value:
    """A layer for each of queries, keys and values."""
    return scored(net, *(heads(net, linear(net, rows, name, 12), 4) for name in ("query", "key", "value")))


def packed(net: Any, rows: Value) -> Value:
    """One layer for all three, as timm has it."""
    split = net.op.Reshape(linear(net, rows, "qkv", 36), [0, 0, 3, 4, 3])
    turned = net.op.Transpose(split, perm=(2, 0, 3, 1, 4))
    return scored(net, *(net.op.Gather(turned, net.op.constant(np.array(index)), axis=0) for index in range(3)))


def shared(net: Any, rows: Value) -> Value:
    """Two heads of keys and values for four of queries, as Llama has it."""
    query = heads(net, linear(net, rows, "query", 12), 4)
    both = []
    for name in ("key", "value"):
        narrow = net.op.Unsqueeze(heads(net, linear(net, rows, name, 6), 2), [2])
        both.append(net.op.Reshape(net.op.Expand(narrow, [1, 2, 2, 24, 3]), [0, 4, 24, 3]))
    return scored(net, query, *both)


def fused(net: Any, rows: Value) -> Value:
    """The operator, on heads."""
    query, key, value = (
        heads(net, linear(net, rows, name, 3 * count), count)
        for name, count in (("query", 4), ("key", 2), ("value", 2))
    )
    mixed = net.op.Attention(query, key, value)
    return net.op.Reshape(net.op.Transpose(mixed, perm=(0, 2, 1, 3)), [0, 0, 12])


def fused_flat(net: Any, rows: Value) -> Value:
    """The operator, which takes heads apart itself, with rotated queries and keys of another width than values."""
    angles = [net.array(1, 24, 2) for _ in range(2)]
    query, key = (
        net.op.RotaryEmbedding(
            net.op.Reshape(linear(net, rows, name, 4 * count), [0, 24, 4 * count]),
            *angles,
            num_heads=count,
        )
        for name, count in (("query", 4), ("key", 2))
    )
    return net.op.Attention(query, key, linear(net, rows, "value", 6), q_num_heads=4, kv_num_heads=2)


@pytest.mark.parametrize("attention", [apart, packed, shared, fused, fused_flat])
def test_attention_loses_whole_heads(attention: Callable[[Any, Value], Value], new_net: Any) -> None:
    net = new_net()
    net.graph.outputs["y"] = linear(net, attention(net, net.op.Reshape(net.x, [0, 24, 8])), "out", 8)

    masked = remove_some(net.graph, first_half)

    assert net.graph.constants["out"].data.shape == (6, 8)
    assert agree(net.graph, net.images(), masked)


def test_a_gated_feed_forward_layer_loses_neurons(new_net: Any) -> None:
    net = new_net()
    rows = net.op.Reshape(net.x, [0, 24, 8])
    gate = net.op.Mul(linear(net, rows, "up", 16), net.op.Sigmoid(linear(net, rows, "gate", 16)))
    net.graph.outputs["y"] = linear(net, gate, "down", 8)

    masked = remove_some(net.graph, first_half)

    assert {name: net.graph.constants[name].data.shape for name in ("up", "gate", "down")} == {
        "up": (8, 8),
        "gate": (8, 8),
        "down": (8, 8),
    }
    assert agree(net.graph, net.images(), masked)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_network_without_some_channels_computes_the_rest(
    new_net: Any, networks: Callable[[Any], Any], data: st.DataObject
) -> None:
    graph = data.draw(networks(new_net))
    shape = new_net.run(graph).shape

    def choose(size: int) -> list[int]:
        return data.draw(st.lists(st.integers(0, size - 1), max_size=size - 1, unique=True))

    masked = remove_some(graph, choose)

    assert new_net.run(graph).shape == shape
    assert agree(graph, new_net.images(), masked)
