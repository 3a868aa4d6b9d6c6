"""What must hold of sizes for TVM's kernels to be right, as expressions that must not be 0 when the model runs.

The kernels leave garbage where they should reduce, multiply or slide over nothing, or read beyond the end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import prod

from ....ir.contents import contents
from ....ir.dims import Dim, evaluate, is_dim, symbols
from ....ir.graph import Graph, Node, Value
from ....ir.operators import has_trait
from ....ir.ops.slice import SURE
from ....ir.traits import Trait
from ....ir.unknown import is_from_data
from ....passes.legalization.expansions.recurrent import RECURRENT_STEPS

_RIGHT = {
    *("Concat", "ConstantOfShape", "Expand", "Flatten", "Identity", "NonMaxSuppression", "NonZero", "Range"),
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND", "Shape"),
    *("Size", "Split", "Squeeze", "Unsqueeze", RECURRENT_STEPS),
}
"""Operators that are right about empty tensors, whatever size is 0."""


_TOLD = frozenset({"Reshape", "Slice", "Squeeze"})
"""Operators whose further inputs are sizes, axes or bounds."""


def guarded(node: Node, inputs: Iterable[Value]) -> list[str]:
    """Return the sizes of a node that must not be 0: where one is 0, its outputs wouldn't be empty, too."""
    if has_computed_bounds(node):
        return []
    if node.operator in _RIGHT or has_trait(node.operator, Trait.BROADCASTING):
        return _fitting(node)
    dims = dict.fromkeys(dim for value in inputs for dim in value.shape if isinstance(dim, str))
    found = [dim for dim in dims if not all(_vanishes(output.shape, dim) for output in node.outputs)]
    if has_trait(node.operator, Trait.INDEXING) or node.operator == "GatherND":
        found = [_unless_unread(dim, node) for dim in found]
    return [*found, *(_bounded(node) if node.operator == "Slice" else _fitting(node))]


def read_places(graph: Graph, given: frozenset[str], name: Callable[[Node], str]) -> dict[str, tuple[str, str]]:
    """Return the inputs that are read as places along an axis, with its size and what reads there.

    Args:
        graph: the graph that is lowered.
        given: the symbols of the inputs' shapes.
        name: returns what the user calls a node's operator.
    """
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        x, value = node.input(0), node.input(1)
        if not has_trait(node.operator, Trait.INDEXING) or x is None or value is None:
            continue
        while (maker := value.producer) is not None and _keeps_numbers(maker) and maker.inputs[0] is not None:
            value = maker.inputs[0]
        dim = x.shape[node.attributes.get("axis", 0)]
        if value in graph.inputs and value.dtype.is_integer and symbols(dim) <= given:
            found.setdefault(value.name, (str(dim), f"{node.location}: {name(node)}"))
    return found


_KEEPING = frozenset({"Cast", "Expand", "Identity", "Transpose"})
"""Operators that keep all numbers, beside those that reshape."""


def _keeps_numbers(node: Node) -> bool:
    return node.operator in _KEEPING or has_trait(node.operator, Trait.RESHAPING)


def has_computed_bounds(node: Node) -> bool:
    """Whether a node's sizes, axes or bounds are compared with the shapes when the model runs.

    That is so where either are known only then.
    """
    if node.operator not in _TOLD:
        return False
    is_known = all(value is None or contents(value) is not None for value in node.inputs[1:])
    if node.operator != "Slice" or node.inputs[0] is None:
        return not is_known
    return not is_known or any(map(is_from_data, node.output.type.symbols - node.inputs[0].type.symbols))


def _unless_unread(dim: str, node: Node) -> str:
    """Return a size that is 0 where a dimension is, unless there are no places to read, either."""
    count = "*".join(f"({size})" for size in node.operand(1).shape if isinstance(size, str))
    allowed = f"{dim} + Max(1 - {count}, 0)"
    return allowed if count and is_dim(allowed) else dim


def _fitting(node: Node) -> list[str]:
    """Return sizes that are 0 unless shapes fit each other: where they don't, kernels would read beyond the end."""
    shapes: list[Sequence[Dim]] = [() if value is None else value.shape for value in node.inputs]
    x, *rest = shapes
    if node.operator == "TopK":
        size, count = x[node.attributes.get("axis", -1)], node.constant(1)
        least = 0 if count is None else int(count.flat[0])
        return [f"Max({size} - {least - 1}, 0)"] if isinstance(size, str) and least > 1 else []
    if node.operator in ("Reshape", "Squeeze"):
        return _unequal(x, node.output.shape)
    if node.operator == "ScatterElements":
        pairs = zip(*rest, strict=True)
    elif node.operator == "ScatterND" and isinstance(depth := rest[0][-1], int):
        pairs = zip((*rest[0][:-1], *x[depth:]), rest[1], strict=True)
    else:
        return []
    return [fault for one, other in pairs for fault in _unequal([one], [other])]


def _unequal(one: Sequence[Dim], other: Sequence[Dim]) -> list[str]:
    """Return a size that is 0 unless two shapes have as many elements; none where they do at a few sizes."""
    alone = Counter(one) - Counter(other), Counter(other) - Counter(one)
    names = sorted(frozenset().union(*(symbols(dim) for dims in alone for dim in dims)))
    rows = [{name: 2 + (step + 3 * place) % 11 for place, name in enumerate(names)} for step in range(11)]
    counts = [[prod(evaluate(dim, row) for dim in dims.elements()) for dims in alone] for row in rows]
    if all(a == b for a, b in counts):
        return []
    a, b = ("*".join(f"({dim})" for dim in dims.elements()) or "1" for dims in alone)
    fault = f"Max(1 - ({a} - {b})**2, 0)"
    return [fault] if is_dim(fault) else []  # there is an end to what a dimension may be


def _bounded(node: Node) -> list[str]:
    """Return sizes that must not be 0, so that a slice's bounds lie inside of the axis where its type takes them to."""
    rows = [node.constant(index) for index in range(1, 4)]
    x, (starts, ends, axes) = node.inputs[0], (row if row is None else row.reshape(-1) for row in rows)
    if x is None or starts is None or ends is None:
        return []
    found: list[str] = []
    for index, bounds in enumerate(zip(starts, ends, strict=True)):
        size = x.shape[index if axes is None else int(axes[index])]
        least = max((abs(int(bound)) for bound in bounds if abs(int(bound)) <= SURE), default=0)
        if isinstance(size, str) and least > 1:
            found.append(f"Max({size} - {least - 1}, 0)")
    return found


def _vanishes(shape: Sequence[Dim], dim: str) -> bool:
    """Whether a shape has no elements when a dimension is 0."""
    if dim in shape:
        return True
    if not dim.isidentifier():
        return False
    sizes = dict.fromkeys(frozenset().union(*map(symbols, shape)), 7) | {dim: 0}
    try:
        return any(evaluate(other, sizes) == 0 for other in shape)
    except ArithmeticError:
        return False
