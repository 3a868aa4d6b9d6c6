"""The time of a model with some layers in integers, from the times of its operators in float and in integers.

An operator by itself says little: what it is fused with, and the layout of what it reads, depend on those around it. So
the model is timed as a whole in float and in integers, and its operators while it runs. Those that are no layer go with
the layer before them. What a choice of layers adds are conversions at the ends of integer regions.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...ir.graph import Graph, Node, Use, Value
from ..base import Feeds, Profile
from .plan import Plan
from .rounding import Rounding, name_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Region:
    """A layer, or a carrier between layers, with what goes with it.

    Attributes:
        in_float: the seconds that it takes in float.
        in_integers: the seconds that it takes in integers, without conversions.
    """

    in_float: float
    in_integers: float


@dataclass(frozen=True, slots=True)
class Times:
    """Predicts what a choice of layers takes.

    Attributes:
        rounding: the graph, ready to be rounded layer by layer.
        sizes: the number of elements of each value.
        regions: the regions, by the name of the layer's or carrier's output.
        whole: the seconds of one inference with all layers in integers.
        converting: the seconds that converting an element takes.
        boundary: the factor on the time of conversions that the integer model doesn't have: layouts change there, too.
    """

    rounding: Rounding
    sizes: Mapping[Value, int]
    regions: Mapping[str, Region]
    whole: float
    converting: float
    boundary: float = 1.0

    @classmethod
    def of(cls, rounding: Rounding, sizes: Mapping[Value, int], in_float: Profile, in_integers: Profile) -> "Times":
        """Learn from the float model and the one with all layers in integers.

        Timing makes operators slower, and a model takes more than all of them: the times of each model's operators are
        scaled so that they sum up to what it takes as a whole.

        Args:
            rounding: the graph, ready to be rounded layer by layer.
            sizes: the number of elements of each value.
            in_float: the profile of a model in which each node's module is the name of its first output.
            in_integers: the profile of the same model with all layers in integers.
        """
        plan = rounding.plan(rounding.layers.keys())
        heads = rounding.layers.keys() | {name_of(node) for node in plan.carriers}
        leads = leads_of(rounding.graph, heads)
        sums = {name: [0.0, 0.0] for name in heads}
        shares = [profile.seconds / (sum(profile.modules.values()) or 1) for profile in (in_float, in_integers)]
        for place, profile in enumerate((in_float, in_integers)):
            for module, seconds in profile.modules.items():
                if module in leads:
                    sums[leads[module]][place] += shares[place] * (seconds - profile.conversions.get(module, 0.0))
        converted = shares[1] * sum(in_integers.conversions.values())
        elements = _conversions(rounding, plan, rounding.layers.keys(), sizes)
        return cls(
            rounding=rounding,
            sizes=sizes,
            regions={name: Region(*found) for name, found in sums.items()},
            whole=in_integers.seconds,
            converting=converted / max(elements, 1),
        )

    def predict(self, chosen: AbstractSet[str]) -> float:
        """The seconds of one inference with the chosen layers in integers."""
        regions, conversions = self._change(chosen)
        return self.whole + regions + self.boundary * conversions

    def corrected(self, chosen: AbstractSet[str], measured: float) -> "Times":
        """The times with the factor on conversions that explains the seconds measured for a choice."""
        regions, conversions = self._change(chosen)
        if conversions <= 0:
            return self
        return replace(self, boundary=min(max((measured - self.whole - regions) / conversions, 0.0), 10.0))

    def cost(self, name: str) -> float:
        """The seconds that a layer would take longer in float, all others being in integers."""
        return self.predict(self.rounding.layers.keys() - {name}) - self.whole

    def _change(self, chosen: AbstractSet[str]) -> tuple[float, float]:
        """How many seconds longer regions take, and conversions, than with all layers in integers."""
        everything = self.rounding.layers.keys()
        plan = self.rounding.plan(chosen)
        integers = {*chosen, *(name_of(node) for node in plan.carriers)}
        regions = sum(it.in_float - it.in_integers for name, it in self.regions.items() if name not in integers)
        elements = _conversions(self.rounding, plan, chosen, self.sizes)
        elements -= _conversions(self.rounding, self.rounding.plan(everything), everything, self.sizes)
        return regions, self.converting * elements


def leads_of(graph: Graph, heads: AbstractSet[str]) -> dict[str, str]:
    """The layer or carrier that each node goes with, by name: the nearest before it along first inputs."""
    leads: dict[str, str] = {}
    for node in graph.nodes:
        name = name_of(node)
        before = [value.producer for value in node.inputs if value is not None and value.producer is not None]
        if name in heads:
            leads[name] = name
        elif found := [leads[name_of(one)] for one in before if name_of(one) in leads]:
            leads[name] = found[0]
    return leads


def is_integer_use(plan: Plan, layers: AbstractSet[Node], use: Use) -> bool:
    """Whether a place reads integers."""
    return use.node in plan.carriers or (use.node in layers and use.index == 0)


def _conversions(rounding: Rounding, plan: Plan, chosen: AbstractSet[str], sizes: Mapping[Value, int]) -> int:
    """The number of elements that are converted by operators of their own."""
    nodes = {rounding.layers[name].node for name in chosen}

    def is_converted(value: Value, uses: Sequence[Use]) -> bool:
        if value not in plan.returned:
            return True
        return rounding.graph.is_output(value) or not all(is_integer_use(plan, nodes, use) for use in uses)

    return sum(sizes.get(value, 0) for value, uses in plan.reads.items() if is_converted(value, uses))


def element_counts(graph: Graph, feeds: Feeds) -> dict[Value, int]:
    """The number of elements of each value, once the graph has run."""
    from ...ir.interpreter import Interpreter  # listing the passes must not import torch

    counts: dict[Value, int] = {}

    def observe(value: Value, tensor: "Tensor") -> None:
        counts[value] = tensor.numel()

    Interpreter(graph).run(feeds, observe)
    return counts
