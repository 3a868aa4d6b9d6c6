"""Types of what is not a plain tensor: rules for the operators that hold graphs, sequences and optionals.

A graph inside a node has types already, from `body_inputs`, which says what such a graph is given; here they become
those of the node. Two types that a value may have are joined: a dimension that they don't share becomes a symbol of its
own, a rank that they don't share is unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from .dims import Dim
from .errors import ModelError
from .graph import Attribute, Constant, Graph, Node, Value
from .limits import MOST_STEPS
from .types import Container, DType, TensorType
from .unknown import size_called

Inputs = Sequence[Value | None]
Attributes = Mapping[str, Attribute]
Rule = Callable[[Inputs, Attributes, int], list[TensorType]]

_COUNT = TensorType(DType.int64, ())
_FLAG = TensorType(DType.bool, ())
_OPTIONAL = {Container.NONE: Container.OPTIONAL, Container.SEQUENCE: Container.OPTIONAL_SEQUENCE}


def join(a: TensorType, b: TensorType, name: str) -> TensorType:
    """The type of a value that may be of either type; new symbols are called after the name.

    Raises:
        ModelError: they are of different element types or containers.
    """
    if a.container is not b.container:
        a, b = (type.within(_OPTIONAL.get(type.container, type.container)) for type in (a, b))
    if (a.dtype, a.container) != (b.dtype, b.container):
        raise ModelError(f"%{name} would be {a} or {b}, which are of different kinds")
    if a.dims is None or b.dims is None or len(a.dims) != len(b.dims):
        return a.resized(None)
    pairs = enumerate(zip(a.dims, b.dims, strict=True))
    dims = tuple(one if one == other else size_called(name, axis) for axis, (one, other) in pairs)
    return a.resized(dims)


def infer_container(operator: str, inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType] | None:
    """The types of a node's outputs, or None where its operator has no rule here.

    Raises:
        ModelError: inputs and graphs don't fit together.
    """
    rule = _RULES.get(operator)
    return None if rule is None else rule(inputs, attributes, outputs)


def body_inputs(operator: str, inputs: Inputs, attributes: Attributes) -> list[TensorType]:
    """What the graphs inside a node are given, before their own results are known.

    Raises:
        ModelError: nobody knows an operator of that name with graphs.
    """
    types = [None if value is None else value.type for value in inputs]
    given = [type for type in types if type is not None]
    match operator:
        case "If":
            return []
        case "Loop":
            return [_COUNT, _FLAG, *(type for type in types[2:] if type is not None)]
        case "Scan":
            count = len(given) - attributes["num_scan_inputs"]
            axes = attributes.get("scan_input_axes") or (0,) * len(given)
            return given[:count] + [_without(type, axis) for type, axis in zip(given[count:], axes, strict=False)]
        case "SequenceMap":
            return [_element(type) for type in given]
        case "ai.onnx.preview::FlexAttention":
            return [_scores(given, attributes)]
        case _:
            raise ModelError(f"{operator} holds a graph, and planish doesn't know what it does with it")


def _scores(types: Sequence[TensorType], attributes: Attributes) -> TensorType:
    """The products of queries and keys `[batch, head, query, key]`, in the type in which they are made into weights."""
    query, key = types[0], types[1]
    dtype = DType(attributes.get("softmax_precision") or query.dtype.at_least_single.value)
    if query.dims is None or key.dims is None:
        return TensorType(dtype, None)
    return TensorType(dtype, (*query.dims[:3], key.dims[2]))


def widened_inputs(operator: str, body: Graph, attributes: Attributes, names: Sequence[str]) -> list[TensorType]:
    """What a graph inside a node is given, joined with what it returns for the next step.

    Args:
        operator: the node's operator.
        body: the graph inside the node.
        attributes: the node's attributes.
        names: the names of the graph's inputs, after which new symbols are called.

    Raises:
        ModelError: a step returns something of another kind than it was given.
    """
    types = [value.type for value in body.inputs]
    results = [value.type for value in body.outputs.values()]
    if operator == "Loop":
        first, last, results = 2, len(types), results[1:]
    elif operator == "Scan":
        first, last = 0, len(types) - attributes["num_scan_inputs"]
    else:
        return types
    for index, result in zip(range(first, last), results, strict=False):
        types[index] = join(types[index], result, names[index])
    return types


# -- rules


def _if(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    then, other = (list(attributes[name].outputs.values()) for name in ("then_branch", "else_branch"))
    if not len(then) == len(other) == outputs:
        raise ModelError(f"If has {outputs} outputs, and branches that return {len(then)} and {len(other)}")
    return [join(a.type, b.type, f"{a.name}_{b.name}") for a, b in zip(then, other, strict=True)]


def _loop(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    body = attributes["body"]
    values = list(body.outputs.values())[1:]
    count = len(inputs) - 2 if len(inputs) > 2 else 0
    states = [join(given.type, result.type, given.name) for given, result in zip(body.inputs[2:], values, strict=False)]
    limit = inputs[0] if inputs else None
    ends = len(inputs) > 1 and inputs[1] is not None
    steps: Dim = size_called(next(iter(body.outputs.values())).name, "steps")
    if isinstance(limit, Constant) and not ends:
        steps = max(int(limit.data.reshape(-1)[0]), 0)
    return states + [_with(value.type, steps, 0) for value in values[count:]]


def _scan(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    body = attributes["body"]
    count = len(inputs) - attributes["num_scan_inputs"]
    values = list(body.outputs.values())
    first = inputs[count]
    assert first is not None
    axes = attributes.get("scan_input_axes") or (0,)
    steps = first.shape[axes[0]] if first.type.is_ranked else size_called(first.name, "steps")
    states = [
        join(given.type, result.type, given.name) for given, result in zip(body.inputs[:count], values, strict=False)
    ]
    along = attributes.get("scan_output_axes") or (0,) * len(values)
    return states + [_with(value.type, steps, axis) for value, axis in zip(values[count:], along, strict=False)]


def _with(type: TensorType, size: Dim, axis: int) -> TensorType:
    if type.dims is None:
        return type
    place = _place(type, axis, len(type.dims) + 1)
    return type.resized((*type.dims[:place], size, *type.dims[place:]))


def _without(type: TensorType, axis: int) -> TensorType:
    if type.dims is None:
        return type
    place = _place(type, axis, len(type.dims))
    return TensorType(type.dtype, (*type.dims[:place], *type.dims[place + 1 :]))


def _place(type: TensorType, axis: int, count: int) -> int:
    """The position of an axis among so many."""
    if not -count <= axis < count:
        raise ModelError(f"{type} has no axis {axis}")
    return axis % count


def _element(type: TensorType) -> TensorType:
    return type.within(Container.NONE)


def _first(inputs: Inputs) -> TensorType:
    value = inputs[0]
    assert value is not None  # the schema demands it
    return value.type


def _construct(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    values = [value for value in inputs if value is not None]
    name = "_".join(value.name for value in values)
    element = reduce(lambda a, b: join(a, b, name), (value.type for value in values))
    return [element.within(Container.SEQUENCE)]


def _empty(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    return [TensorType(DType(attributes.get("dtype", 1)), None, Container.SEQUENCE)]


def _insert(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    sequence, tensor = inputs[0], inputs[1]
    assert sequence is not None
    assert tensor is not None
    if sequence.producer is not None and sequence.producer.operator == "SequenceEmpty":
        return [tensor.type.within(Container.SEQUENCE)]
    joined = join(_element(sequence.type), tensor.type, f"{sequence.name}_{tensor.name}")
    return [joined.within(Container.SEQUENCE)]


def _map(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    return [value.type.within(Container.SEQUENCE) for value in attributes["body"].outputs.values()]


def _split(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    x, sizes = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert x is not None
    if not x.type.is_ranked:
        return [x.type.within(Container.SEQUENCE)]
    axis = attributes.get("axis", 0)
    part = _without(x.type, axis)
    if sizes is not None or attributes.get("keepdims", 1):
        part = _with(part, 1 if sizes is None else size_called(sizes.name, "part"), axis % x.type.rank)
    return [part.within(Container.SEQUENCE)]


def _at(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    """An element's type: exact if a tensor of known size was split at constant places and the position is constant."""
    element, place = _element(_first(inputs)), inputs[1]
    split = inputs[0].producer if inputs[0] is not None else None
    if split is None or split.operator != "SplitToSequence" or not isinstance(place, Constant):
        return [element]
    sizes, axis = part_sizes(split), split.attributes.get("axis", 0)
    position = int(place.data.reshape(-1)[0])
    if sizes is None or element.dims is None or not -len(sizes) <= position < len(sizes):
        return [element]
    return [_with(_without(element, axis), sizes[position], axis % len(element.dims))]


def part_sizes(split: Node) -> list[int] | None:
    """The sizes of the parts that a SplitToSequence makes along its axis; None if unknown, or if the axis goes."""
    x, sizes = split.inputs[0], split.input(1)
    if x is None or not x.type.is_ranked or (sizes is None and not split.attributes.get("keepdims", 1)):
        return None
    whole = x.shape[split.attributes.get("axis", 0)]
    if isinstance(sizes, Constant) and sizes.data.ndim == 1:
        return sizes.data.tolist()
    if not isinstance(whole, int) or (sizes is not None and not isinstance(sizes, Constant)):
        return None
    step = 1 if sizes is None else int(sizes.data.reshape(-1)[0])
    if step <= 0 or whole > step * MOST_STEPS:
        return None
    return [min(step, whole - start) for start in range(0, whole, step)]


def _concatenate(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    element, axis = _element(_first(inputs)), attributes["axis"]
    sequence = inputs[0]
    assert sequence is not None
    if element.dims is None:
        return [element]
    size = size_called(sequence.name, "whole")
    if attributes.get("new_axis", 0):
        return [_with(element, size, axis)]
    return [_with(_without(element, axis), size, axis % len(element.dims))]


def _optional(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    held = inputs[0].type if inputs and inputs[0] is not None else attributes["type"]
    return [held.within(_OPTIONAL[held.container])]


def _held(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    type = _first(inputs)
    inner = {optional: plain for plain, optional in _OPTIONAL.items()}
    return [type.within(inner.get(type.container, type.container))]


def _zip_map(inputs: Inputs, attributes: Attributes, outputs: int) -> list[TensorType]:
    by = Container.MAPS_OF_TEXTS if attributes.get("classlabels_strings") else Container.MAPS_OF_NUMBERS
    return [TensorType(_first(inputs).dtype, (), by)]


_RULES: dict[str, Rule] = {
    "ConcatFromSequence": _concatenate,
    "Identity": lambda inputs, attributes, outputs: [_first(inputs)],
    "If": _if,
    "Loop": _loop,
    "Optional": _optional,
    "OptionalGetElement": _held,
    "OptionalHasElement": lambda inputs, attributes, outputs: [_FLAG],
    "Scan": _scan,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": lambda inputs, attributes, outputs: [_first(inputs)],
    "SequenceInsert": _insert,
    "SequenceLength": lambda inputs, attributes, outputs: [_COUNT],
    "SequenceMap": _map,
    "SplitToSequence": _split,
    "ai.onnx.ml::ZipMap": _zip_map,
}
