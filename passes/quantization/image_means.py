"""The mean over an image, written as GlobalAveragePool, which has an integer kernel, unlike ReduceMean."""

from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ..rewrite import Match, RewriteRule
from ..rewrite.apply import apply_rules


def _is_over_image(match: Match) -> str:
    axes, rank = match.constant("axes"), match["x"].type.rank
    over_image = rank == 4 and axes is not None and {int(axis) % rank for axis in axes.flat} == {2, 3}
    return "" if over_image else "it isn't the mean over an image"


def _pool(op: Builder, match: Match) -> Value:
    pooled = op.GlobalAveragePool(match["x"])
    return pooled if match.root.output.type.rank == 4 else op.Flatten(pooled)


_MEAN_TO_POOL = RewriteRule("mean-to-pool", lambda op, x, axes: op.ReduceMean(x, axes), _pool, _is_over_image)


def pool_image_means(graph: Graph, operators: frozenset[str]) -> int:
    """Rewrite means over images as pooling if that is among the operators with an integer kernel; return how many."""
    return sum(apply_rules(graph, [_MEAN_TO_POOL]).counts.values()) if "GlobalAveragePool" in operators else 0
