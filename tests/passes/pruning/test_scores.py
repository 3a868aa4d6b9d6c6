"""The field's importances: each takes what it says first, and all of them go with everything else that pruning does."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

import planish
from planish.ir.analysis.channels import channel_groups
from planish.ir.analysis.cost import summarize
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext
from planish.passes.fusion.fuse_batch_norm import BatchNormFusion
from planish.passes.judge import Judge
from planish.passes.pruning import scores
from planish.passes.pruning.importance import Importance, Ranking, rank
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.passes.pruning.shrink import shrunk
from planish.targets.load import load_target

BY_WEIGHTS: Sequence[Importance] = ("l1", "l2", "fpgm", "bn-scale")
BY_DATA: Sequence[Importance] = ("loss", "taylor", "wanda")


def images(seed: int, count: int) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((8, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def context(graph: Graph, data: Sequence[Feeds] = ()) -> PassContext:
    return PassContext(load_target("x86-64"), graph, data)


def rankings(graph: Graph, importance: Importance, data: Sequence[Feeds] = ()) -> list[Ranking]:
    groups = [group for group in channel_groups(graph) if group.producers and not group.frozen]
    return rank(graph, groups, importance, data, context(graph, data), "")


def of_first(graph: Graph, importance: Importance, data: Sequence[Feeds] = ()) -> Ranking:
    """The ranking of the 16 channels of `normed`'s first layer."""
    return next(ranking for ranking in rankings(graph, importance, data) if len(ranking.order) == 16)


def values(ranking: Ranking) -> np.ndarray:
    """What each channel is worth."""
    found = np.empty(len(ranking.order))
    found[ranking.order] = np.diff(ranking.losses)
    return found


def named(graph: Graph, name: str) -> np.ndarray:
    return graph.constants[name].data


def normed(net: Any) -> Graph:
    """A layer of 16 channels with a batch norm, and one that reads it; the outputs are no certain classes."""
    h = net.op.Relu(scaled(net, net.conv(net.x, "first", 16, 3), "scale", net.random.uniform(0.5, 2, 16)))
    graph = net.classify(net.op.Relu(net.norm(net.conv(h, "second", 8, 3))))
    named(graph, "head")[:] *= 0.01
    return graph


def scaled(net: Any, x: Any, name: str, scale: Sequence[float] | np.ndarray) -> Any:
    """A batch norm with given scales, and no shift."""
    zeros = np.zeros(len(scale), np.float32)
    return net.op.BatchNormalization(x, net.op.constant(np.array(scale, np.float32), name), zeros, zeros, zeros + 1)


@pytest.mark.parametrize("importance", [*BY_WEIGHTS, *BY_DATA])
def test_a_channel_that_a_batch_norm_mutes_goes_first(importance: Importance, new_net: Any) -> None:
    graph = normed(new_net())
    named(graph, "scale")[5] = 1e-4

    ranking = of_first(graph, importance, images(0, 8))

    assert len(ranking.order) == 16
    assert ranking.order[0] == 5


@pytest.mark.parametrize("importance", BY_DATA)
def test_a_channel_that_is_hardly_read_goes_first_whatever_its_norm(importance: Importance, new_net: Any) -> None:
    graph = normed(new_net())
    named(graph, "first")[5] *= 10
    named(graph, "second")[:, 5] *= 1e-4

    assert of_first(graph, importance, images(0, 8)).order[0] == 5
    assert of_first(graph, "l1").order[-1] == 5


def test_fpgm_takes_the_filter_amid_the_others_and_not_the_smallest(new_net: Any) -> None:
    graph = normed(new_net())
    weight = named(graph, "first")
    named(graph, "scale")[:] = 1
    weight += 3
    weight[5] = np.delete(weight, 5, 0).mean(0)
    weight[7] -= 2

    assert of_first(graph, "fpgm").order[0] == 5
    assert of_first(graph, "l1").order[0] == 7


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), importance=st.sampled_from((*BY_WEIGHTS, *BY_DATA)))
def test_channels_in_another_order_are_ranked_alike(seed: int, importance: Importance, new_net: Any) -> None:
    graph, other = normed(new_net(seed)), normed(new_net(seed))
    order = np.random.default_rng(seed).permutation(16)
    for node in other.nodes:
        for value in node.inputs:
            if value is not None and value.name in other.constants and value.type.static_shape[:1] == (16,):
                named(other, value.name)[:] = named(other, value.name)[order]
    named(other, "second")[:] = named(other, "second")[:, order]

    one, two = (of_first(each, importance, images(seed, 4)) for each in (graph, other))

    assert np.array_equal(order[two.order], one.order)
    assert np.allclose(two.losses, one.losses, rtol=1e-3)


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", *BY_DATA])
def test_folding_batch_norms_first_makes_no_difference(importance: Importance, new_net: Any) -> None:
    graph = normed(new_net())
    before = of_first(graph, importance, images(0, 8))
    assert BatchNormFusion().apply(graph, context(graph)).changed
    after = of_first(graph, importance, images(0, 8))

    assert np.array_equal(before.order, after.order)
    assert np.allclose(before.losses, after.losses, rtol=1e-2)


# -- what the numbers are


@pytest.mark.parametrize("block", [1024, 5])
def test_fpgm_adds_up_distances(block: int, new_net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_BLOCK", block)
    graph = normed(new_net())
    filters = named(graph, "first").reshape(16, -1) * named(graph, "scale")[:, None]
    wanted = cdist(filters, filters).sum(axis=1)

    assert np.allclose(values(of_first(graph, "fpgm")), wanted / wanted.sum(), rtol=1e-4)


def test_wanda_multiplies_weights_by_the_norms_of_what_they_are_multiplied_with(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(net.op.Relu(net.conv(net.op.Relu(net.conv(net.x, "first", 16, 3)), "second", 8, 3)))
    data, read = images(0, 8), next(node for node in graph.nodes if node.location.module == "second").inputs[0]
    seen: list[np.ndarray] = []
    for feeds in data:
        Interpreter(graph).run(feeds, lambda value, tensor: seen.append(tensor.numpy()) if value is read else None)
    wanted = np.linalg.norm(np.concatenate(seen).swapaxes(0, 1).reshape(16, -1), axis=1)
    wanted *= np.abs(named(graph, "second")).sum(axis=(0, 2, 3))

    assert np.allclose(values(rankings(graph, "wanda", data)[0]), wanted / wanted.sum(), rtol=1e-4)


def test_taylor_is_near_what_the_outputs_diverge_without_a_channel_that_matters_little(new_net: Any) -> None:
    graph = normed(new_net())
    named(graph, "head")[:] *= 10
    named(graph, "second")[:] *= 0.02
    named(graph, "scale")[[2, 3, 5]] *= [0.1, 0.5, 0.05]
    data = images(0, 32)
    group = next(group for group in channel_groups(graph) if group.size == 16)
    judge = Judge(graph, data)

    found = values(of_first(graph, "taylor", data))

    for channel in (2, 3, 5):
        lost = judge.judge(shrunk(graph, [(group, np.array([channel]))])).loss
        assert found[channel] == pytest.approx(lost, rel=0.3)


def test_where_a_model_is_too_sure_for_gradients_norms_are_taken(new_net: Any) -> None:
    graph = normed(new_net())
    named(graph, "head")[:] *= 1e6

    assert np.array_equal(of_first(graph, "taylor", images(0, 4)).order, of_first(graph, "l1").order)


# -- channels that several layers compute


@pytest.mark.parametrize(
    ("scales", "gone"),
    [(([1, 2, 3], [3, 0.5, 3]), 1), (([0.1, 2, -3], [9, 0.5, 3]), 1), (([2, 2, 1], [1, 1, 1]), 2)],
)
def test_the_scales_of_all_batch_norms_count(scales: Sequence[Sequence[float]], gone: int, new_net: Any) -> None:
    net = new_net()
    left, right = (
        scaled(net, net.conv(net.x, name, 3), f"{name}_scale", scale)
        for name, scale in zip(("left", "right"), scales, strict=True)
    )
    graph = net.classify(net.op.Relu(net.op.Add(left, right)))

    (ranking,) = rankings(graph, "bn-scale")

    assert ranking.order[0] == gone
    assert ranking.losses[-1] == pytest.approx(np.abs(scales).mean(axis=0).sum())


@pytest.mark.parametrize("importance", ["fpgm", "wanda"])
def test_a_layer_doesnt_outvote_another_by_its_scale(importance: Importance, new_net: Any) -> None:
    def worth(factor: float) -> np.ndarray:
        net = new_net()
        h = net.op.Relu(net.op.Add(net.conv(net.x, "loud", 6), net.conv(net.x, "quiet", 6)))
        graph = net.classify(net.op.Add(net.conv(h, "one", 4), net.conv(h, "other", 4)))
        named(graph, "loud" if importance == "fpgm" else "one")[:] *= factor
        return values(rankings(graph, importance, images(0, 4))[0])

    assert np.allclose(worth(1), worth(1000), rtol=1e-3)


def test_taylor_sees_what_cancels_in_a_sum(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(net.op.Relu(net.op.Add(net.conv(net.x, "left", 8), net.conv(net.x, "right", 8))))
    for name in ("left", "right"):
        bias = next(node for node in graph.nodes if node.location.module == name).operand(2)
        named(graph, bias.name)[:] = 0
    named(graph, "right")[3] = -named(graph, "left")[3] * 0.999

    assert rankings(graph, "taylor", images(0, 8))[0].order[0] == 3


@settings(max_examples=6, deadline=None)
@given(data=st.data(), importance=st.sampled_from(("fpgm", "bn-scale", "taylor", "wanda")))
def test_any_network_is_pruned_by_any_importance(
    new_net: Any, networks: Callable[[Any], Any], data: st.DataObject, importance: Importance
) -> None:
    graph = data.draw(networks(new_net))
    ratio = data.draw(st.sampled_from([0.5, 0.0]))
    whole = graph.clone()

    pruning = ChannelPruning(importance=importance, round_to=1, ratio=ratio, flops=0.4)
    result = pruning.apply(graph, context(graph, images(0, 4)))

    verify(graph)
    assert new_net.run(graph).shape == new_net.run(whole).shape
    assert result.changed == (summarize(graph).parameters < summarize(whole).parameters)


# -- among groups


def test_scales_of_batch_norms_are_compared_among_groups_and_norms_within_each(new_net: Any) -> None:
    def left(importance: Importance) -> list[int]:
        net = new_net()
        x, wide = net.x, np.linspace(1, 2, 16)
        for name, factor in (("first", 1.0), ("second", 0.01)):
            x = net.op.Relu(scaled(net, net.conv(x, name, 16, 3), f"{name}_scale", factor * wide))
        graph = net.classify(x)
        ChannelPruning(flops=0.4, importance=importance, round_to=1).apply(graph, context(graph))
        return [len(named(graph, name)) for name in ("first", "second")]

    assert left("bn-scale")[0] == 16
    assert left("l1")[0] < 16


# -- what can't be ranked


@pytest.mark.parametrize("importance", BY_DATA)
def test_what_is_ranked_by_data_needs_them(importance: Importance, new_net: Any) -> None:
    with pytest.raises(UsageError, match=f"importance={importance}.* needs calibration data; l1, l2"):
        planish.optimize(normed(new_net()), f"prune-channels{{ratio=0.5,importance={importance}}}")


def test_layers_whose_batch_norms_are_folded_or_say_nothing_stay(new_net: Any) -> None:
    net = new_net()
    h = net.op.Relu(scaled(net, net.conv(net.x, "ranked", 16), "scale", np.arange(16)))
    h = net.op.Relu(scaled(net, net.conv(h, "alike", 16), "ones", np.ones(16)))
    graph = net.classify(net.op.Relu(net.conv(h, "bare", 16)))

    result = ChannelPruning(ratio=0.5, importance="bn-scale").apply(graph, context(graph))

    assert len(named(graph, "ranked")) == 8
    assert [miss.split(", because ")[0] for miss in result.misses if "no batch norm's scale" in miss] == [
        "alike: the 16 channels stay",
        "bare: the 16 channels stay",
    ]


def test_scales_after_fusion_are_an_error_that_says_the_order(new_net: Any) -> None:
    with pytest.raises(UsageError, match=r"16 channels stay.*if `fuse` has folded.*\(first\)"):
        planish.optimize(normed(new_net()), "fuse,prune-channels{ratio=0.5,importance=bn-scale}")
