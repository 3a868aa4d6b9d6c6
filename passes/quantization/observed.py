"""What static quantization needs to know of a graph in float, all of it told by one run over the calibration data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ...ir.graph import Graph, Value
from ..base import Feeds, PassContext
from ..judge import Reference
from .calibrate import Calibrated, Calibration, See, show
from .compensate import compensated
from .correct_biases import ChannelMeans
from .layers import Layer
from .plan import Plan, result
from .smooth import Smoothed
from .sweep import Moments, Sums


@dataclass(frozen=True, slots=True)
class Observed:
    """What a run over the calibration data has told.

    Attributes:
        graph: the graph that ran.
        seen: what was seen of each value that gets a grid.
        means: the means of the channels that layers yield.
        sums: the sums of products of what the first layer reads whose weight GPTQ may round; None if there is none.
    """

    graph: Reference
    seen: Mapping[Value, Calibrated]
    means: ChannelMeans
    sums: Sums | None

    @classmethod
    def of(
        cls,
        graph: Reference,
        layers: Sequence[Layer],
        calibration: Calibration,
        batches: Sequence[Feeds],
        context: PassContext,
        *,
        compensated_on: int,
        others: Sequence[See] = (),
    ) -> Self:
        """Run the calibration data.

        Args:
            graph: the graph in float.
            layers: its layers that may compute in integers.
            calibration: what observes the values that then get a grid.
            batches: the inputs, one batch after another.
            context: the context that progress is reported to.
            compensated_on: how many of the batches GPTQ looks at.
            others: the callbacks that are shown the tensors as well.
        """
        means, heads = ChannelMeans(graph.graph, layers), compensated(layers)
        sums = Sums(heads[0], compensated_on) if heads and compensated_on else None
        sees = [calibration.see, means.see, *others]
        show(graph, batches, sees if sums is None else [*sees, sums.see], context)
        return cls(graph, calibration.found, means, sums)

    def moments(self, smoothed: Iterable[Smoothed]) -> Moments | None:
        """Return the moments that GPTQ starts with, after some activations were smoothed; None if there are none."""
        if self.sums is None:
            return None
        scale = next((it.scale for it in smoothed if it.x is self.sums.x), None)
        return self.sums.moments if scale is None else self.sums.moments.divided(scale)


def unstretched(
    graph: Graph, seen: Mapping[Value, Calibrated], layers: Sequence[Layer], plan: Plan
) -> tuple[list[Layer], list[str]]:
    """The layers that neither read nor make values that a few samples stretch, and a sentence for each other layer."""
    kept: list[Layer] = []
    misses: list[str] = []
    for layer in layers:
        made = (result(graph, layer.node),) if layer.node.operator == "Conv" else ()
        roots = [plan.root(end) for end in (layer.x, *made)]
        stretch = max((seen[root].stretch for root in roots if root in seen), default=1.0)
        if stretch > 1:
            misses.append(
                f"{layer.node.location}: {layer.node.operator} stays in float: a few samples of the calibration "
                f"data hold numbers {stretch:.0f} times as large as the median sample's, and 8 bits can't represent "
                "both"
            )
        else:
            kept.append(layer)
    return kept, misses
