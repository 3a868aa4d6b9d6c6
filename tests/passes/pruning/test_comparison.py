"""What groups lose beside each other: measured, and never more than with equal shares of all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from planish.ir.analysis.channels import channel_groups
from planish.ir.graph import Graph
from planish.passes.base import Feeds, PassContext
from planish.passes.judge import Judge
from planish.passes.pruning import comparison
from planish.passes.pruning.allocation import Candidate, Operations, evenly
from planish.passes.pruning.comparison import compared, enough_to_draft
from planish.passes.pruning.importance import rank_by_norm
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.passes.pruning.shrink import shrunk
from planish.targets.load import load_target


def network(net: Any, widths: Sequence[int] = (16, 32, 8)) -> Graph:
    x = net.x
    for number, width in enumerate(widths):
        x = net.op.Relu(net.conv(x, f"layer{number}", width, 3))
    return net.classify(x)


def candidates(graph: Graph, step: int = 1) -> list[Candidate]:
    groups = [group for group in channel_groups(graph) if not group.frozen]
    return [Candidate(group, rank_by_norm(group, "l1"), step) for group in groups]


def images(seed: int, count: int) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((8, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_losses_are_the_models_own_at_some_widths_and_rise_between_them(new_net: Any) -> None:
    graph = network(new_net())
    context = PassContext(load_target("x86-64"), graph)
    before = candidates(graph)
    batches = images(0, 4)

    def prune(counts: Mapping[int, int], fitted: Sequence[Feeds]) -> Graph:
        removals = [(before[number].group, before[number].ranking.order[:gone]) for number, gone in counts.items()]
        return shrunk(graph, removals)

    found = compared(graph, before, batches, prune, context, "")
    assert found is not None

    judge = Judge(graph, batches[3:])
    for number, candidate in enumerate(found):
        losses = candidate.ranking.losses
        half = candidate.group.size // 2
        assert losses[half] == pytest.approx(judge.judge(prune({number: half}, ())).loss)
        assert losses[0] == 0
        assert (np.diff(losses) >= 0).all()
        assert np.array_equal(candidate.ranking.order, before[number].ranking.order)


def test_what_would_take_too_long_is_not_compared(new_net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(new_net())
    context = PassContext(load_target("x86-64"), graph)
    monkeypatch.setattr(comparison, "_MOST_OPERATIONS", 1e6)
    assert compared(graph, candidates(graph), images(0, 4), lambda counts, fitted: graph, context, "") is None


@pytest.mark.parametrize(("count", "operations", "drafted"), [(24, 1, 8), (24, 1e12, 24), (6, 1, 6), (3, 1, 3)])
def test_drafts_are_fitted_to_few_samples_of_large_models(
    count: int, operations: float, drafted: int, new_net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch holds eight samples, of which a draft sees 64 at the least."""
    monkeypatch.setattr(comparison, "_DRAFT_OPERATIONS", operations)
    batches = images(0, count)
    found = enough_to_draft(network(new_net()), batches)
    assert [id(batch) for batch in found] == [id(batch) for batch in batches[:drafted]]


def test_equal_shares_stay_equal_to_a_step(new_net: Any) -> None:
    graph = network(new_net())
    groups = candidates(graph, step=2)
    removed = [0] * len(groups)

    for stage in evenly(groups, Operations(graph, groups, {})):
        removed[stage.candidate] = stage.removed
        shares = [gone / candidate.group.size for gone, candidate in zip(removed, groups, strict=True)]
        assert max(shares) - min(shares) <= 2 / 8

    assert [candidate.group.size - gone for gone, candidate in zip(removed, groups, strict=True)] == [2, 2, 2]


def test_a_budget_costs_no_more_than_equal_shares_do(new_net: Any) -> None:
    graph = network(new_net())
    batches = images(0, 8)
    judge = Judge(graph.clone(), [batches[3], batches[7]])  # which are held out

    def loss(**options: Any) -> float:
        pruned = graph.clone()
        ChannelPruning(round_to=1, **options).apply(pruned, PassContext(load_target("x86-64"), graph, batches))
        return judge.judge(pruned).loss

    assert loss(flops=0.7) <= loss(ratio=1 - 0.3**0.5) * 1.05
