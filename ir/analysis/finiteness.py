"""Open places: where masks let something through, so that no softmax of a masked row has nothing to choose from.

A place of a float tensor is open if it holds a finite number, a place of a tensor of truth values if that is true. A
softmax gives NaN in a row that has no open place, or one that is NaN or infinite, and a number anywhere else.

Three things are assumed, and nothing else: a graph's float inputs are finite numbers; so is what is computed from
finite numbers of ordinary size by sums, products and functions that have no poles (`_TOTAL`); and only constants may be
of a size near the end of their type's range, such as `finfo.min` in masks: these are followed, and a sum of two of them
isn't taken for finite.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, takewhile

import numpy as np

from ..graph import Constant, Graph, Node, Value
from ..types import Container, DType


@dataclass(frozen=True, slots=True)
class Places:
    """What is known of all elements of a value.

    Attributes:
        full: whether every place is open.
        rows: the axes, counted from the end, along which each row has an open place; all axes if every place is open.
        is_number: whether every place that isn't open holds minus infinity, or false.
        size: a bound on the finite numbers that come from constants; what is computed is taken to be of size 1.
    """

    full: bool = False
    rows: frozenset[int] = frozenset()
    is_number: bool = False
    size: float = 1.0

    def opens(self, axis: int) -> bool:
        """Whether each row along an axis, counted from the end, has an open place."""
        return self.is_number and (self.full or axis in self.rows)


_UNKNOWN = Places()
_FULL = Places(full=True, is_number=True)
_TRUTHS = Places(is_number=True)

Rule = Callable[[Node, Sequence[Places]], Places]


def finite_places(graph: Graph, *, takes_numbers: bool = True) -> Mapping[Value, Places]:
    """What is known of each value of a graph, without the graphs inside its nodes; the data of constants are inspected.

    Args:
        graph: the graph of a model, or one inside a node.
        takes_numbers: whether the graph's float inputs are finite, as a model's are taken to be.
    """
    known = {value: _of_type(value, _FULL if takes_numbers else _UNKNOWN) for value in graph.inputs}

    def of(value: Value | None) -> Places:
        if value is None:
            return _FULL
        if value not in known:
            known[value] = _of_array(value.data, value.dtype) if isinstance(value, Constant) else _UNKNOWN
        return known[value]

    for node in graph.nodes:
        rule = _RULES.get(node.operator)
        if node.operator == "Where":
            found = _where(node, of)
        else:
            found = _UNKNOWN if rule is None else rule(node, [of(value) for value in node.inputs])
        known |= {value: _of_type(value, found) for value in node.outputs}
    return known


def _of_type(value: Value, places: Places) -> Places:
    """Correct what is known of a value by its type.

    Integers are always finite; floats of eight bits may lack signs, zeros or infinities, so nothing is said of them.
    """
    if value.type.container is not Container.NONE:
        return _UNKNOWN
    if value.dtype is DType.bool:
        return places if value.producer is not None and places.is_number else _TRUTHS
    return _FULL if value.dtype.is_integer else places if value.dtype.is_trainable else _UNKNOWN


def _of_array(data: np.ndarray, dtype: DType) -> Places:
    """What is known of an array from its least and its greatest element, without a copy of a weight."""
    if dtype is DType.bool:
        return _with_rows(data, 1.0)
    if dtype.is_integer or data.size == 0:
        return _FULL
    if not dtype.is_trainable:
        return _UNKNOWN
    low, high = float(data.min()), float(data.max())
    if not high < np.inf:  # or NaN
        return _UNKNOWN
    if low > -np.inf:
        return Places(full=True, is_number=True, size=max(abs(low), abs(high)))
    is_open = data > -np.inf
    return _with_rows(is_open, float(np.abs(data[is_open]).max(initial=0)))


def _with_rows(is_open: np.ndarray, size: float) -> Places:
    rows = (axis for axis in range(-is_open.ndim, 0) if is_open.any(axis=axis).all())
    return Places(bool(is_open.all()), frozenset(rows), is_number=True, size=size)


@cache
def _largest(dtype: DType) -> float:
    return dtype.largest if dtype.is_trainable else np.inf


def _filled(node: Node, operands: Sequence[Places]) -> Places:
    value = node.attributes.get("value")
    return _of_array(value, node.output.dtype) if isinstance(value, np.ndarray) else _FULL


def _held(node: Node, places: Places) -> Places:
    """What is known of a result, if it is in its type's range."""
    return places if places.size <= _largest(node.outputs[0].dtype) else _UNKNOWN


def _total(node: Node, operands: Sequence[Places]) -> Places:
    """What a function without poles gives: finite numbers, if its operands and even their squares are finite."""
    limit = _largest(node.outputs[0].dtype) ** 0.5
    return _FULL if all(places.full and places.size <= limit for places in operands) else _UNKNOWN


def _together(operands: Sequence[Places], rows: frozenset[int] = frozenset()) -> Places:
    """Elements of all operands, at other places."""
    return Places(
        all(places.full for places in operands),
        rows,
        all(places.is_number for places in operands),
        max(places.size for places in operands),
    )


def _moved(node: Node, operands: Sequence[Places]) -> Places:
    return _together(operands[:1])


def _mapped(node: Node, places: Places, axes: Mapping[int, int]) -> Places:
    """What is known of a value moved to other axes; `axes` maps the result's axes to the value's, from the front."""
    value, result = node.inputs[0], node.outputs[0]
    if value is None or not value.type.is_ranked or not result.type.is_ranked:
        return _together([places])
    before, after = value.type.rank, result.type.rank
    rows = frozenset(new - after for new, old in axes.items() if old - before in places.rows)
    return _together([places], rows)


def _broadcast(node: Node, operands: Sequence[Places]) -> Places:
    """A row of one open place becomes a row of many; axes that are added in front hold the same element throughout."""
    return _together(operands[:1], operands[0].rows)


def _transpose(node: Node, operands: Sequence[Places]) -> Places:
    rank = node.output.type.rank if node.output.type.is_ranked else 0
    order = node.attributes.get("perm", tuple(reversed(range(rank))))
    places = dict(enumerate(order)) if isinstance(order, tuple) else {}
    return _mapped(node, operands[0], places)  # pyright: ignore[reportArgumentType] -- the schema says ints


def _squeezed(node: Node, operands: Sequence[Places]) -> Places:
    value, axes = node.inputs[0], node.constant(1)
    longer = node.output if node.operator == "Unsqueeze" else value
    if longer is None or not longer.type.is_ranked or axes is None:
        return _moved(node, operands)
    single = {int(axis) % longer.type.rank for axis in axes.reshape(-1)}
    kept = enumerate(axis for axis in range(longer.type.rank) if axis not in single)
    is_added = node.operator == "Unsqueeze"
    return _mapped(node, operands[0], {axis: place for place, axis in kept} if is_added else dict(kept))


def _reshaped(node: Node, operands: Sequence[Places]) -> Places:
    """What is known of a reshape, through the last axes that stay as they are."""
    value, result = node.inputs[0], node.output
    if value is None or not value.type.is_ranked or not result.type.is_ranked:
        return _moved(node, operands)
    pairs = zip(reversed(value.shape), reversed(result.shape), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    before, after = value.type.rank, result.type.rank
    return _mapped(node, operands[0], {after - 1 - place: before - 1 - place for place in range(same)})


def _concat(node: Node, operands: Sequence[Places]) -> Places:
    axis = node.attributes.get("axis", 0)
    rank = node.output.type.rank if node.output.type.is_ranked else 0
    along = axis % rank - rank if isinstance(axis, int) and rank else 0
    every = frozenset.intersection(*(_rows(places, rank) for places in operands))
    joined = {along} if any(places.opens(along) for places in operands) else set[int]()
    return _together(operands, every | joined)


def _rows(places: Places, rank: int) -> frozenset[int]:
    return frozenset(range(-rank, 0)) if places.full else places.rows


def _add(node: Node, operands: Sequence[Places]) -> Places:
    one, other = operands
    rows = (one.rows if other.full else frozenset[int]()) | (other.rows if one.full else frozenset[int]())
    is_number = one.is_number and (other.full if node.operator == "Sub" else other.is_number)
    return _held(node, Places(one.full and other.full, rows, is_number, one.size + other.size))


def _mul(node: Node, operands: Sequence[Places]) -> Places:
    if not all(places.full for places in operands):
        return _UNKNOWN
    *_, size = accumulate((max(places.size, 1.0) for places in operands), lambda one, other: one * other)
    return _held(node, Places(full=True, is_number=True, size=size))


def _div(node: Node, operands: Sequence[Places]) -> Places:
    divisor = node.constant(1)
    return _total(node, operands) if divisor is not None and np.all(np.abs(divisor) > 1e-6) else _UNKNOWN


def _pow(node: Node, operands: Sequence[Places]) -> Places:
    exponent = node.constant(1)
    return _total(node, operands) if exponent is not None and np.all(np.isin(exponent, (1, 2, 3))) else _UNKNOWN


def _max(node: Node, operands: Sequence[Places]) -> Places:
    every = _together(operands)
    return Places(every.is_number and any(places.full for places in operands), every.rows, every.is_number, every.size)


def _clip(node: Node, operands: Sequence[Places]) -> Places:
    """What is at least a finite number is finite."""
    if not all(places.is_number for places in operands) or not all(places.full for places in operands[1:]):
        return _UNKNOWN
    is_full = operands[0].full or node.input(1) is not None
    return Places(is_full, operands[0].rows, is_number=True, size=max(places.size for places in operands))


def _cast(node: Node, operands: Sequence[Places]) -> Places:
    source = node.inputs[0]
    if source is None or (node.output.dtype is DType.bool) is not (source.dtype is DType.bool):
        return _FULL if source is not None and source.dtype is DType.bool else _TRUTHS
    return _held(node, operands[0]) if node.output.dtype.is_float or node.output.dtype is DType.bool else _UNKNOWN


def _or(node: Node, operands: Sequence[Places]) -> Places:
    rows = frozenset[int]().union(*(places.rows for places in operands))
    return Places(any(places.full for places in operands), rows, is_number=True)


def _and(node: Node, operands: Sequence[Places]) -> Places:
    one, other = operands
    rows = (one.rows if other.full else frozenset[int]()) | (other.rows if one.full else frozenset[int]())
    return Places(one.full and other.full, rows, is_number=True)


def _triangle(node: Node, operands: Sequence[Places]) -> Places:
    """The lower triangle of what is true keeps the first element of each row, if it has the diagonal."""
    offset = node.constant(1) if node.input(1) is not None else np.zeros((), np.int64)
    is_lower = not node.attributes.get("upper", 1) and offset is not None and bool(np.all(offset >= 0))
    is_open = is_lower and operands[0].full and node.output.dtype is DType.bool
    return Places(rows=frozenset({-1}) if is_open else frozenset(), is_number=node.output.dtype is DType.bool)


def _softmax(node: Node, operands: Sequence[Places]) -> Places:
    axis, value = node.attributes.get("axis", -1), node.inputs[0]
    if value is None or not value.type.is_ranked or not isinstance(axis, int):
        return _UNKNOWN
    return _FULL if operands[0].opens(axis % value.type.rank - value.type.rank) else _UNKNOWN


def _attention(node: Node, operands: Sequence[Places]) -> Places:
    """Rows that are masked altogether give zeros, as the standard has it."""
    return _total(node, operands[:3])


def _where(node: Node, of: Callable[[Value | None], Places]) -> Places:
    condition, yes, no = node.inputs
    if condition is None or _replaces_nan(node):
        return _FULL if of(yes).full else _UNKNOWN
    chosen, other = of(yes), of(no)
    is_yes, is_no = of(condition), _of_negation(condition, of)
    if is_yes.full:
        return chosen
    rows = (is_yes.rows if chosen.full else frozenset[int]()) | (is_no.rows if other.full else frozenset[int]())
    return _together([chosen, other], rows)


def _of_negation(condition: Value, of: Callable[[Value | None], Places]) -> Places:
    if isinstance(condition, Constant):
        return _of_array(~condition.data, DType.bool)
    producer = condition.producer
    return of(producer.inputs[0]) if producer is not None and producer.operator == "Not" else _TRUTHS


def _replaces_nan(node: Node) -> bool:
    """Whether a Where puts something in the place of NaN in a softmax, which has nothing else that isn't a number."""
    condition, _, value = node.inputs
    test = None if condition is None else condition.producer
    softmax = None if value is None else value.producer
    return (
        test is not None and test.operator == "IsNaN" and test.inputs[0] is value
        and softmax is not None and softmax.operator == "Softmax"
    )  # fmt: skip


_TOTAL = (
    *(
        "Abs",
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "Cos",
        "Elu",
        "Erf",
        "Gelu",
        "Gemm",
        "GlobalAveragePool",
        "GroupNormalization",
    ),
    *(
        "HardSigmoid",
        "HardSwish",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "MatMul",
        "Mean",
        "Mish",
        "Neg",
    ),
    *("PRelu", "RMSNormalization", "ReduceSum", "RotaryEmbedding", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sum"),
    *("Swish", "Tanh"),
    *("com.microsoft::FusedMatMul", "com.microsoft::Gelu", "com.microsoft::QuickGelu"),
)
"""Functions that map finite numbers of ordinary size to finite numbers; normalizations do so thanks to epsilon."""

_MOVING = (
    *("Ceil", "DepthToSpace", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Relu", "Round", "Slice"),
    *("SpaceToDepth", "Split", "Tile"),
)
"""Functions that give elements of their first input, or keep minus infinity and what is finite as it is."""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_TOTAL, _total),
    **dict.fromkeys(_MOVING, _moved),
    "Add": _add,
    "And": _and,
    "Attention": _attention,
    "Cast": _cast,
    "Clip": _clip,
    "CastLike": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Div": _div,
    "Expand": _broadcast,
    "Identity": _broadcast,
    "Max": _max,
    "Min": lambda node, operands: _together(operands),
    "Mul": _mul,
    "Or": _or,
    "Pow": _pow,
    "Reshape": _reshaped,
    "Softmax": _softmax,
    "Squeeze": _squeezed,
    "Sub": _add,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _squeezed,
}
