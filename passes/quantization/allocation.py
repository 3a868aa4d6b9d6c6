"""Which layers to quantize: the least time within a bound on the loss, by an integer program.

What layers cost in float and in integers adds up, and so does what they add to the loss, as errors of different layers
are independent to first order. Conversions depend on two layers each, which makes the choice more than a knapsack.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ...ir.graph import Use, Value
from .plan import Plan, result
from .rounding import Losses, Rounding, name_of
from .times import Times, is_integer_use

_SECONDS = 20.0
"""The seconds that the solver may take."""


def allocate(times: Times, losses: Losses, budget: float) -> frozenset[str]:
    """The layers to quantize, by the names of their outputs.

    Args:
        times: what the graph's layers take in float and in integers.
        losses: what quantizing each layer and each value adds to the loss.
        budget: the most that the losses of the chosen layers and their values may sum up to.
    """
    layers = times.rounding.layers
    plan = times.rounding.plan(layers.keys())
    program = _Program()
    states = _States(times.rounding, plan, program)
    for name, region in times.regions.items():
        program.cost(states.of_name(name), region.in_integers - region.in_float)
    spent = {states.of_name(name): losses.weights[name] for name in layers}
    for value, uses in plan.reads.items():
        cost = times.boundary * times.converting * times.sizes.get(value, 0)
        rounded, made = _convert(program, states, value, uses, cost)
        spent[rounded if plan.root(value) is value else made] = losses.values.get(value.name, 0.0)
    program.spend(spent, budget)
    solution = program.solve()
    return frozenset(name for name in layers if solution[states.of_name(name)] > 0.5)


def _convert(
    program: "_Program", states: "_States", value: Value, uses: tuple[Use, ...], cost: float
) -> tuple[int, int]:
    """Add the cost of quantizing a value, and of dequantizing it, by operators of their own where these are needed.

    Returns:
        The variables that say whether the value is rounded, and whether an operator of its own rounds it.
    """
    there = states.of_value(value)
    readers = [states.of_use(use) for use in uses]
    rounded, to_integers, to_floats = program.variable(0.0), program.variable(cost), program.variable(cost)
    program.imply(there, rounded)
    for reader in readers:
        program.imply(reader, rounded)
        program.imply(reader, to_integers, there)
        program.imply(there, to_floats, reader)
    if states.is_returned(value):
        program.imply(there, to_floats)
    return rounded, to_integers


class _States:
    """The variables that say whether layers, carriers and values are in integers."""

    def __init__(self, rounding: Rounding, plan: Plan, program: "_Program") -> None:
        self._graph, self._plan = rounding.graph, plan
        self._layers = {layer.node: name for name, layer in rounding.layers.items()}.keys()
        self._nodes = {node: program.choice() for node in (*self._layers, *plan.carriers)}
        self._names = {name_of(node): variable for node, variable in self._nodes.items()}
        self._values: dict[Value, int] = {}
        for node, variable in self._nodes.items():
            value = result(self._graph, node)
            if value in plan.returned:
                yields_integers = node.operator == "Conv" or node not in self._layers
                self._values[value] = variable if yields_integers else self._joined(program, variable, value)
        for node in plan.carriers:
            for value in node.inputs:
                if value is not None and value.dtype.is_float:
                    program.imply(self._nodes[node], self.of_value(value))
            program.imply(self._nodes[node], *map(self.of_use, result(self._graph, node).uses))

    def _joined(self, program: "_Program", variable: int, value: Value) -> int:
        """Make the variable of a Gemm's or MatMul's result, which is in floats unless all its readers take integers."""
        held = program.choice()
        program.imply(held, variable)
        for use in value.uses:
            program.imply(held, self.of_use(use))
        return held

    def is_returned(self, value: Value) -> bool:
        """Whether the graph returns a value."""
        return self._graph.is_output(value)

    def of_name(self, name: str) -> int:
        """The variable of a layer or carrier."""
        return self._names[name]

    def of_value(self, value: Value) -> int | None:
        """The variable that says whether a value comes in integers; None where it never does."""
        return self._values.get(value)

    def of_use(self, use: Use) -> int | None:
        """The variable that says whether a place reads integers; None where it never does."""
        return self._nodes[use.node] if is_integer_use(self._plan, self._layers, use) else None


@dataclass(slots=True)
class _Program:
    """An integer program: the least cost of variables between 0 and 1, under bounds of weighted sums."""

    _costs: list[float] = field(default_factory=list[float])
    _whole: list[int] = field(default_factory=list[int])
    _rows: list[Mapping[int, float]] = field(default_factory=list[Mapping[int, float]])
    _limits: list[float] = field(default_factory=list[float])

    def choice(self) -> int:
        """Make a variable that is 0 or 1."""
        self._whole.append(1)
        self._costs.append(0.0)
        return len(self._costs) - 1

    def variable(self, cost: float) -> int:
        """Make a variable anywhere between 0 and 1."""
        self._whole.append(0)
        self._costs.append(cost)
        return len(self._costs) - 1

    def cost(self, variable: int, cost: float) -> None:
        """Add to what a variable costs."""
        self._costs[variable] += cost

    def imply(self, one: int | None, *others: int | None) -> None:
        """Let a variable be no more than the sum of others, so that it is 0 where all of them are; None is 0."""
        if one is not None:
            self._bound({one: 1.0} | {held: -1.0 for held in others if held is not None}, 0.0)

    def spend(self, amounts: Mapping[int, float], budget: float) -> None:
        """Limit the sum of what variables spend, relative to the budget, since the solver's tolerances are absolute."""
        for variable, amount in amounts.items():
            if amount > budget:
                self._bound({variable: 1.0}, 0.0)
        shares = {variable: amount / budget for variable, amount in amounts.items() if 0 < amount <= budget}
        if shares:
            self._bound(shares, 1.0)

    def _bound(self, weights: Mapping[int, float], limit: float) -> None:
        self._rows.append(weights)
        self._limits.append(limit)

    def solve(self) -> np.ndarray:
        """The variables, float[variables]; all 0 where the solver finds nothing in time."""
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import coo_array

        entries = [(row, column, weight) for row, held in enumerate(self._rows) for column, weight in held.items()]
        rows, columns, weights = zip(*entries, strict=True)
        shape = (len(self._rows), len(self._costs))
        matrix = coo_array((weights, (rows, columns)), shape=shape).tocsr()
        scale = max(map(abs, self._costs)) or 1.0
        found = milp(
            np.array(self._costs) / scale,
            integrality=np.array(self._whole),
            bounds=(0, 1),
            constraints=cast("Any", LinearConstraint)(matrix, -np.inf, self._limits),
            options={"time_limit": _SECONDS},
        )
        return np.zeros(len(self._costs)) if found.x is None else found.x
