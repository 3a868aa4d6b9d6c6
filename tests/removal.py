"""Channels that are removed from a graph, for tests that hold what is left to the whole with these set to zero."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from planish.ir.analysis.channels import channel_groups
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify
from planish.passes.base import Feeds
from planish.passes.pruning.shrink import shrink, without

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from masking import run_masked


def remove_some(graph: Graph, choose: Callable[[int], list[int]]) -> Callable[[Feeds], np.ndarray]:
    """Take channels out of every group that isn't frozen.

    Returns:
        What runs the whole graph with these channels set to zero wherever they are computed.
    """
    whole = graph.clone()
    twins = dict(zip(graph.values(), whole.values(), strict=True))
    chosen = [(group, choose(group.size)) for group in channel_groups(graph) if group.producers and not group.frozen]
    kept = without((group, np.array(removed)) for group, removed in chosen if removed)
    masks = {(twins[value], axis): mask for (value, axis), mask in kept.items()}
    shrink(graph, kept)
    verify(graph)
    return lambda feeds: run_masked(whole, masks, feeds)["y"]


def agree(graph: Graph, feeds: Feeds, masked: Callable[[Feeds], np.ndarray]) -> bool:
    """Whether a graph computes what the whole does with channels set to zero."""
    wanted = masked(feeds)
    found = Interpreter(graph).run(feeds)["y"]
    return np.allclose(found, wanted, rtol=1e-3, atol=1e-4 * (1 + np.abs(wanted).max()))


def first_half(size: int) -> list[int]:
    """The first half of some channels."""
    return list(range(size // 2))
