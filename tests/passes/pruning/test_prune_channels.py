"""Channel pruning: which channels it takes, how many, and what it says about the rest."""

from typing import Any

import numpy as np
import pytest

from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.targets.load import load_target


def prune(graph: Graph, **options: Any) -> PassResult:
    result = ChannelPruning(**options).apply(graph, PassContext(load_target("x86-64"), graph))
    verify(graph)
    return result


def two_layers(net: Any, channels: int = 16) -> Graph:
    h = net.op.Relu(net.conv(net.x, "first", channels, 3))
    return net.classify(net.op.Relu(net.conv(h, "second", 8, 3)))


def scale(graph: Graph, name: str, factors: np.ndarray) -> None:
    """Multiply the filters of a layer, one number each."""
    constant = graph.constants[name]
    constant.data = (constant.data * factors.reshape(-1, *(1,) * (constant.data.ndim - 1))).astype(np.float32)


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_the_smallest_filters_go_and_the_others_keep_their_order(importance: str, new_net: Any) -> None:
    graph = two_layers(new_net())
    small = np.isin(np.arange(16), [1, 2, 5, 7, 8, 11, 12, 15])
    scale(graph, "first", np.where(small, 0.01, 1.0))
    first, second = graph.constants["first"].data, graph.constants["second"].data

    result = prune(graph, ratio=0.5, importance=importance)

    assert result.counts == {"groups": 1, "channels": 8}
    assert np.array_equal(graph.constants["first"].data, first[~small])
    assert np.array_equal(graph.constants["second"].data, second[:, ~small])


def test_l1_and_l2_disagree_about_one_large_weight(new_net: Any) -> None:
    def survivor(importance: str) -> float:
        net = new_net()
        graph = two_layers(net, channels=2)
        graph.constants["first"].data = np.ones((2, 3, 3, 3), np.float32)
        graph.constants["first"].data[1] = 0
        graph.constants["first"].data[1, 0, 0, 0] = 20  # in l1 less than 27 ones, in l2 more
        prune(graph, importance=importance, round_to=1, only=("first",))
        return float(graph.constants["first"].data.max())

    assert survivor("l1") == 1
    assert survivor("l2") == 20


def test_dead_channels_can_go_without_a_trace(new_net: Any) -> None:
    net = new_net()
    graph = two_layers(net)
    dead = np.arange(16) % 2 == 0
    scale(graph, "first", np.where(dead, 0.0, 1.0))
    bias = next(node for node in graph.nodes if node.location.module == "first").inputs[2]
    scale(graph, bias.name, np.where(dead, 0.0, 1.0))
    before = net.run(graph)

    prune(graph, ratio=0.5, only=("first",))

    assert graph.constants["first"].data.shape[0] == 8
    assert np.allclose(net.run(graph), before, rtol=1e-4, atol=1e-5)


def test_layers_that_share_channels_decide_together_whatever_their_scale(new_net: Any) -> None:
    net = new_net()
    summed = net.op.Add(net.conv(net.x, "loud", 3), net.conv(net.x, "quiet", 3))
    graph = net.classify(net.op.Relu(summed))
    for name, norms in (("loud", [100, 110, 120]), ("quiet", [1.0, 0.1, 1.2])):
        graph.constants[name].data = np.ones((3, 3, 1, 1), np.float32)
        scale(graph, name, np.array(norms))

    prune(graph, ratio=0.34, round_to=1)

    assert graph.constants["loud"].data[:, 0, 0, 0].tolist() == [100, 120]


@pytest.mark.parametrize(
    ("channels", "ratio", "round_to", "left"),
    [
        (16, 0.25, 8, 16),
        (16, 0.3, 8, 8),
        (24, 0.5, 8, 16),
        (16, 0.9, 8, 8),
        (10, 0.3, 1, 7),
        (10, 0.99, 1, 1),
        (20, 0.5, 4, 12),
    ],
)
def test_what_is_left_is_the_nearest_multiple_of_round_to(
    channels: int, ratio: float, round_to: int, left: int, new_net: Any
) -> None:
    graph = two_layers(new_net(), channels)

    prune(graph, ratio=ratio, round_to=round_to, only=("first",))

    assert graph.constants["first"].data.shape[0] == left


def test_a_group_without_room_is_explained(new_net: Any) -> None:
    graph = two_layers(new_net(), channels=8)

    result = prune(graph, only=("first",))

    assert not result.changed
    assert result.misses == [
        "first: the 8 channels stay, because no smaller multiple of 8 is near what ratio 0.5 leaves"
    ]


def test_frozen_layers_are_explained(new_net: Any) -> None:
    net = new_net()
    result = prune(net.classify(net.op.Softmax(net.conv(net.x, "mixed", 16), axis=1)))

    assert result.misses == [
        "mixed: the 16 channels stay, because Softmax in mixed doesn't keep them apart",
        "head: the 10 channels stay, because they are the graph's output 'y'",
    ]


def test_only_and_skip_choose_layers_by_name_or_operator(new_net: Any) -> None:
    def widths(**options: Any) -> list[int]:
        graph = two_layers(new_net())
        prune(graph, round_to=1, **options)
        return [graph.constants[name].data.shape[0] for name in ("first", "second")]

    assert widths() == [8, 4]
    assert widths(only=("fir*",)) == [8, 8]
    assert widths(skip=("first",)) == [16, 4]
    assert widths(skip=("Conv",)) == [16, 8]


def test_a_group_with_one_skipped_layer_stays_whole(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(net.op.Relu(net.op.Add(net.conv(net.x, "left", 16), net.conv(net.x, "right", 16))))

    assert not prune(graph, skip=("right",)).changed


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"ratio": 0.0}, {"importance": "l3"}, {"round_to": 0}])
def test_senseless_options_are_refused(options: dict[str, Any], new_net: Any) -> None:
    with pytest.raises(UsageError, match=f"option {next(iter(options))} of pass prune-channels"):
        prune(two_layers(new_net()), **options)


def test_the_source_of_the_weights_is_not_written_to(new_net: Any) -> None:
    graph = two_layers(new_net())
    source = graph.clone()
    before = {name: constant.data.copy() for name, constant in source.constants.items()}

    prune(graph)

    assert all(np.array_equal(source.constants[name].data, array) for name, array in before.items())
