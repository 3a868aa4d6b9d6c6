"""Channel pruning: which channels it takes, how many, and what it says about the rest."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish
from planish.ir.analysis.cost import summarize
from planish.ir.errors import UsageError
from planish.ir.graph import Constant, Graph
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext, PassResult
from planish.passes.fusion.fuse_batch_norm import BatchNormFusion
from planish.passes.judge import Judge, divided
from planish.passes.pruning import comparison
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.targets.load import load_target


def prune(graph: Graph, calibration: Sequence[Feeds] = (), **options: Any) -> PassResult:
    """Prune, by half of the channels if nothing else is said."""
    if not options.keys() & {"flops", "max_drop"}:
        options = {"ratio": 0.5, **options}
    result = ChannelPruning(**options).apply(graph, PassContext(load_target("x86-64"), graph, calibration))
    verify(graph)
    return result


def two_layers(net: Any, channels: int = 16) -> Graph:
    h = net.op.Relu(net.conv(net.x, "first", channels, 3))
    return net.classify(net.op.Relu(net.conv(h, "second", 8, 3)))


def bias_of(graph: Graph, module: str) -> Constant:
    """The bias of a layer."""
    bias = next(node for node in graph.nodes if node.location.module == module).inputs[2]
    assert isinstance(bias, Constant)
    return bias


def scale(graph: Graph, name: str, factors: np.ndarray) -> None:
    """Multiply the filters of a layer, one number each."""
    constant = graph.constants[name]
    constant.data = (constant.data * factors.reshape(-1, *(1,) * (constant.data.ndim - 1))).astype(np.float32)


@pytest.mark.parametrize("name", ["prune-channels", "factorize"])
def test_what_finds_nothing_to_take_is_an_error_that_says_why(name: str, new_net: Any) -> None:
    graph = two_layers(new_net())
    said = r"is required, but changed nothing:\n  no layer is called third, .*\n(  .*\n)*required=false lets it"
    with pytest.raises(UsageError, match=said):
        planish.optimize(graph, f"{name}{{ratio=0.5,only=third}}")
    with pytest.warns(UserWarning, match=f"{name}.* changed nothing"):
        planish.optimize(graph, f"{name}{{ratio=0.5,only=third,required=false}}")


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_the_smallest_filters_go_and_the_others_keep_their_order(importance: str, new_net: Any) -> None:
    graph = two_layers(new_net())
    small = np.isin(np.arange(16), [1, 2, 5, 7, 8, 11, 12, 15])
    scale(graph, "first", np.where(small, 0.01, 1.0))
    first, second = graph.constants["first"].data, graph.constants["second"].data

    result = prune(graph, ratio=0.5, importance=importance, only=("first",))

    assert result.counts == {"groups": 1, "channels": 8, "fits": 0}
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
    scale(graph, bias_of(graph, "first").name, np.where(dead, 0.0, 1.0))
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
        (64, 0.3, 8, 48),
        (16, 0.3, 8, 12),
        (16, 0.25, 8, 12),
        (24, 0.5, 8, 12),
        (16, 0.9, 8, 2),
        (10, 0.3, 1, 7),
        (10, 0.99, 1, 1),
        (32, 0.5, 3, 15),
    ],
)
def test_what_is_left_is_the_nearest_multiple_and_near_the_ratio(
    channels: int, ratio: float, round_to: int, left: int, new_net: Any
) -> None:
    """With few channels, half or a quarter of `round_to` is what counts, so that no ratio becomes another."""
    graph = two_layers(new_net(), channels)

    prune(graph, ratio=ratio, round_to=round_to, only=("first",))

    assert graph.constants["first"].data.shape[0] == left


def test_layers_may_have_ratios_of_their_own(new_net: Any) -> None:
    def widths(*ratios: str, **options: Any) -> list[int]:
        graph = two_layers(new_net())
        prune(graph, round_to=1, ratios=ratios, **options)
        return [graph.constants[name].data.shape[0] for name in ("first", "second")]

    assert widths("first:0.25") == [12, 4]
    assert widths("first:0.25", ratio=0) == [12, 8]
    assert widths("f*:25%", "second:0.75") == [12, 2]
    assert widths("first:0", "*:0.75") == [16, 2]


def test_a_sum_gives_what_the_first_ratio_of_its_layers_says(new_net: Any) -> None:
    net = new_net()
    graph = net.classify(net.op.Relu(net.op.Add(net.conv(net.x, "left", 16), net.conv(net.x, "right", 16))))

    prune(graph, ratios=("right:0.25", "left:0.75"), round_to=1)

    assert graph.constants["left"].data.shape[0] == graph.constants["right"].data.shape[0] == 12


def test_ratios_are_read_from_text_and_those_that_do_nothing_are_explained(new_net: Any) -> None:
    graph = two_layers(new_net())
    said = r"(?s)no layer is called third, which ratios= names.*the 16 channels stay, because their ratio is 0 .first."
    with pytest.raises(UsageError, match=said):
        planish.optimize(graph, "prune-channels{ratios=third:0.5|first:0}")


@pytest.mark.parametrize("text", ["first", "first:", ":0.5", "first:1", "first:-0.5", "first:nan", "first:half"])
def test_what_is_no_ratio_of_a_layer_is_refused(text: str, new_net: Any) -> None:
    with pytest.raises(UsageError, match=f"ratios are of the form layer:share, .*, not '{text}'"):
        planish.optimize(two_layers(new_net()), f'prune-channels{{ratios="{text}"}}')


def test_whole_vectors_are_kept_of_few_channels_if_that_is_asked_for(new_net: Any) -> None:
    graph = two_layers(new_net(), 32)

    prune(graph, ratio=0.3, round_to=16, strict=True, only=("first",))

    assert graph.constants["first"].data.shape[0] == 16


def test_a_group_that_loses_nothing_is_explained(new_net: Any) -> None:
    graph = two_layers(new_net(), channels=8)

    result = prune(graph, ratio=0.05, only=("first",))

    assert not result.changed
    reason = "first: the 8 channels stay, because ratio=0.05 rounds to none of them in steps of 1: give a larger ratio"
    assert result.misses == [reason]
    assert prune(graph, ratio=0.05).misses[0] == reason  # before what can't go in any case


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


@pytest.mark.parametrize("options", [{"ratio": 1.0}, {"flops": 1.0}, {"importance": "l3"}, {"round_to": 0}])
def test_senseless_options_are_refused(options: dict[str, Any], new_net: Any) -> None:
    with pytest.raises(UsageError, match=f"option {next(iter(options))} of pass prune-channels"):
        prune(two_layers(new_net()), **options)


def test_the_source_of_the_weights_is_not_written_to(new_net: Any) -> None:
    graph = two_layers(new_net())
    source = graph.clone()
    before = {name: constant.data.copy() for name, constant in source.constants.items()}

    prune(graph)

    assert all(np.array_equal(source.constants[name].data, array) for name, array in before.items())


# -- batch norms


def normed(net: Any) -> Graph:
    """Two layers with batch norms, whose scales the filters say nothing about."""
    h = net.op.Relu(net.norm(net.conv(net.x, "first", 16, 3)))
    return net.classify(net.op.Relu(net.norm(net.conv(h, "second", 16, 3))))


def images(seed: int, count: int = 4) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((8, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("data", [(), images(0)])
@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"ratio": 0.5, "importance": "l2"}, {"flops": 0.5}])
def test_folding_batch_norms_before_or_after_makes_no_difference(
    data: Sequence[Feeds], options: dict[str, Any], new_net: Any
) -> None:
    before, after = normed(new_net()), normed(new_net())
    context = PassContext(load_target("x86-64"), before)

    assert BatchNormFusion().apply(before, context).changed
    prune(before, data, **options)
    prune(after, data, **options)
    BatchNormFusion().apply(after, context)

    assert np.allclose(new_net.run(before), new_net.run(after), rtol=1e-3, atol=1e-3)


# -- with calibration data


def error(graph: Graph, whole: Graph) -> float:
    (feeds,) = images(7, 1)
    got, wanted = (Interpreter(each).run(feeds)["y"] for each in (graph, whole))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_channels_that_others_can_stand_for_go_and_nothing_is_lost(new_net: Any) -> None:
    """Each of eight filters is there twice, and the norms say the wrong ones."""
    graph = two_layers(new_net())
    for constant in (graph.constants["first"], bias_of(graph, "first")):
        constant.data = np.concatenate([constant.data[:8]] * 2)
    scale(graph, "first", np.repeat([1.0, 0.1], 8))
    scale(graph, bias_of(graph, "first").name, np.repeat([1.0, 0.1], 8))
    whole = graph.clone()

    result = prune(graph, images(0), ratio=0.5, only=("first",))

    assert result.counts == {"groups": 1, "channels": 8, "fits": 1}
    assert error(graph, whole) < 0.01


def test_the_mean_of_what_goes_is_moved_into_the_next_bias(new_net: Any) -> None:
    """Four channels never vary, and are the largest."""
    graph = two_layers(new_net())
    steady = np.arange(16) % 4 == 0
    scale(graph, "first", np.where(steady, 0.0, 1.0))
    bias = bias_of(graph, "first")
    bias.data = np.where(steady, 5.0, bias.data).astype(np.float32)
    whole = graph.clone()

    prune(graph, images(0), ratio=0.25, only=("first",))

    assert graph.constants["first"].data.shape[0] == 12
    assert graph.constants["first"].data.any(axis=(1, 2, 3)).all()
    assert error(graph, whole) < 0.5  # at the border, where zeros are read, a bias can't stand for them


def test_fitting_what_is_left_lowers_the_error(new_net: Any) -> None:
    def lost(**options: Any) -> float:
        graph = normed(new_net())
        whole = graph.clone()
        prune(graph, images(0, 16), **options)
        return error(graph, whole)

    assert lost(ratio=0.5) < 0.5 * lost(ratio=0.5, repair=False)
    assert lost(flops=0.5, importance="l1") < 0.5 * lost(flops=0.5, importance="l1", repair=False)


def test_layers_that_are_skipped_are_not_fitted(new_net: Any) -> None:
    graph = normed(new_net())
    head = graph.constants["head"].data

    prune(graph, images(0, 16), only=("first",))

    assert np.array_equal(graph.constants["head"].data, head)


def test_layers_that_read_what_they_did_are_not_looked_at(new_net: Any) -> None:
    graph, layers = two_layers(new_net()), set[int]()

    def note(what: str, _: int, total: int) -> None:
        layers.update([total] if what == "fitting layers" else [])

    context = PassContext(load_target("x86-64"), graph, images(0, 4), progress=note)
    ChannelPruning(ratio=0.5, skip=("first",)).apply(graph, context)

    assert layers == {1}  # the head, which reads the second layer


def test_flops_are_those_of_the_whole_model(new_net: Any) -> None:
    graph = normed(new_net())
    before = summarize(graph).flops

    prune(graph, flops=0.4, round_to=1)

    assert 0.55 < summarize(graph).flops / before < 0.65


def test_more_than_there_is_to_save_is_said(new_net: Any) -> None:
    result = prune(normed(new_net()), flops=0.99, only=("first",))

    (note,) = result.notes
    assert note.startswith("no more than")


@pytest.mark.parametrize("max_drop", [1e-4, 20.0])
def test_without_a_ratio_outputs_stay_within_bounds_on_data_held_out(max_drop: float, new_net: Any) -> None:
    graph = normed(new_net())
    graph.outputs["y"] = next(node for node in graph.nodes if node.location.module == "second").output
    whole = graph.clone()

    result = prune(graph, images(0, 8), max_drop=max_drop, skip=("head",))  # which nothing reads

    judge = Judge(whole, images(5, 8))
    assert judge.judge(graph).drop < 1.5 * max_drop
    assert bool(result.counts["channels"]) == (max_drop == 20.0)


@pytest.mark.parametrize("max_drop", [0.5, pytest.param(5.0, marks=pytest.mark.wide), 20.0])
def test_what_drafts_found_is_held_to_the_bound_once_it_is_fitted_to_all(
    max_drop: float, new_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_DRAFT_OPERATIONS", 1)
    monkeypatch.setattr(comparison, "_DRAFT_SAMPLES", 1)
    graph = normed(new_net())
    context = PassContext(load_target("x86-64"), graph.clone(), images(0, 24))
    fitted, held_out, _ = divided(context)
    assert len(comparison.enough_to_draft(graph, fitted)) == 4

    ChannelPruning(max_drop=max_drop).apply(graph, context)

    assert Judge(context.source, held_out).judge(graph).drop <= max_drop


def test_without_a_ratio_and_data_it_is_an_error_that_says_what_to_do(new_net: Any) -> None:
    graph = normed(new_net())
    with pytest.raises(UsageError, match=r"give calibration data.*prune-channels\{ratio=0\.3\}"):
        ChannelPruning().apply(graph, PassContext(load_target("x86-64"), graph))
    with pytest.raises(UsageError, match="needs calibration data"):
        prune(graph, importance="loss")


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_network_is_pruned_and_fitted(new_net: Any, networks: Callable[[Any], Any], data: st.DataObject) -> None:
    graph = data.draw(networks(new_net))
    whole, blind = graph.clone(), graph.clone()

    counts = prune(graph, images(0, 8), flops=0.4, round_to=1).counts
    prune(blind, images(0, 8), flops=0.4, round_to=1, repair=False)

    assert new_net.run(graph).shape == new_net.run(whole).shape
    assert not counts["channels"] or error(graph, whole) < error(blind, whole) + 0.05


def test_what_is_split_in_several_is_pruned_with_data(new_net: Any) -> None:
    net = new_net()
    h = net.linear(net.op.Flatten(net.op.GlobalAveragePool(net.x)), "joined", 48)
    parts = net.op.Split(h, np.array([16, 16, 16]), axis=1, outputs=3)
    net.graph.outputs["y"] = net.linear(net.op.Mul(net.op.Add(parts[0], parts[1]), parts[2]), "head", 10)

    result = prune(net.graph, [net.images()] * 4)

    assert result.counts["channels"]
    assert net.graph.constants["joined"].data.shape[0] == 24


def test_a_pool_that_is_written_as_products_keeps_fewer_channels_beside(new_net: Any) -> None:
    net = new_net()
    x = net.op.Relu(net.conv(net.x, "first", 16))
    rows, columns = (np.full(shape, 1 / 8, np.float32) for shape in ((2, 8), (8, 2)))
    pooled = net.op.MatMul(net.op.constant(rows, "rows"), net.op.MatMul(x, net.op.constant(columns, "columns")))
    graph = net.classify(net.op.Relu(net.conv(pooled, "second", 8)))

    result = prune(graph, images(0), ratio=0.5, only=("first",))

    assert result.counts["channels"] == 8
    assert pooled.shape[1] == 8
    assert np.isfinite(net.run(graph)).all()
