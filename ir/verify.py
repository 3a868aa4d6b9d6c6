"""What makes a graph well formed: values defined before use, and nodes that conform to the schemas of ONNX.

Operators of the standard's domains are held to `onnx.defs` at the pinned opset; those of others have no schema here
and are checked for structure alone.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .dims import is_dim, symbols
from .errors import CheckError
from .graph import Attribute, Constant, Graph, Node, Use, Value, nested, nested_nodes, now
from .kept import keep
from .opset import LAST_OF_OLD_KERNELS, LOWEST_OPSET, OLD_KERNELS, OPSET
from .suggestion import did_you_mean
from .types import Container, DType, TensorType

if TYPE_CHECKING:
    from onnx.defs import OpSchema


def verify(graph: Graph) -> None:
    """Check a graph: all of it, or what was edited since it was last checked, unless there are graphs inside its nodes.

    Names and uses are checked where all of it is: afterwards nobody but the graph itself changes them.

    Raises:
        CheckError: the first fault: the node, its location, and what is wrong with it.
    """
    since = graph.verified
    nodes = [node for node in graph.nodes if node.edited > since or node.graphs]
    parts = [graph, *(part for node in nodes for inner in node.graphs for part in nested(inner))]
    if len(parts) > 1:  # what is inside a node may be older than its place there
        since, nodes = 0, [node for part in parts for node in part.nodes]
    if not (since and all(map(graph.is_ordered, nodes)) and all(map(graph.defines, graph.outputs.values()))):
        _check_structure(graph, parts)
    for part in parts:
        for value in [value for value in (*part.inputs, *part.constants.values()) if value.edited > since]:
            _check_value(value)
    for node in nodes:
        for value in node.outputs:
            if value.edited > since:
                _check_value(value)
        if not node.conforms:
            _check_schema(node)
    graph.verified = now()


def _check_schema(node: Node) -> None:
    signature = (
        node.operator,
        tuple([value and value.type for value in node.inputs]),
        tuple([value.type for value in node.outputs]),
        tuple([(name, _kind(attribute)) for name, attribute in node.attributes.items()]),
    )
    if signature not in _SOUND:
        fault = next(_faults(node), None)
        if fault is not None:
            _fail(node, fault)
        keep(_SOUND, signature, True)
    node.conforms = True


_SOUND: dict[Hashable, bool] = {}
"""The combinations that were found to conform to their schemas: nodes repeat a few of them."""


def _fail(node: Node, fault: str) -> NoReturn:
    raise CheckError(f"{node!r} of {node.location}: {fault}")


# -- structure


def _check_structure(graph: Graph, parts: Sequence[Graph]) -> None:
    _check_names(parts)
    uses: dict[Value, set[Use]] = {}
    _check_order(graph, uses, set())
    _check_uses(uses)


def _check_names(parts: Iterable[Graph]) -> None:
    names: set[str] = set()
    for value in (value for part in parts for value in part.values()):
        if value.name in names:
            raise CheckError(f"two values are named %{value.name}")
        names.add(value.name)
    for name, constant in ((name, constant) for part in parts for name, constant in part.constants.items()):
        if name != constant.name:
            raise CheckError(f"the constant %{constant.name} is held under the name {name}")


def _check_value(value: Value) -> None:
    fault = _type_fault(value.type)
    if fault:
        raise CheckError(f"{value!r} has {fault} as a dimension")
    if isinstance(value, Constant) and TensorType.of(value.data) != value.type:
        raise CheckError(f"the data of {value!r} is {TensorType.of(value.data)}")


@lru_cache(maxsize=1 << 9)
def _type_fault(type: TensorType) -> str:
    """The first wrong dimension; nothing if there is none."""
    for dim in type.dims or ():
        valid = is_dim(dim) and symbols(dim) if isinstance(dim, str) else dim >= 0
        if not valid:
            return repr(dim)
    return ""


def _check_order(graph: Graph, uses: dict[Value, set[Use]], visible: set[Value]) -> None:
    """Check that values are defined before they are read, here or in a graph around; note their readers in `uses`."""
    own: set[Value] = set()

    def define(*values: Value) -> None:
        uses.update((value, set()) for value in values)
        own.update(values)
        visible.update(values)

    define(*graph.inputs, *graph.constants.values())
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value not in visible:
                _fail(node, f"it reads %{value.name}, which nothing before it in the graph defines")
            uses[value].add(Use(node, index))
        for inner in node.graphs:
            _check_order(inner, uses, visible)
        _check_outputs(node)
        define(*node.outputs)
    for name, value in graph.outputs.items():
        if value not in own:
            raise CheckError(f"the graph returns %{value.name} as {name}, but nothing in it defines that value")
    visible -= own


def _check_outputs(node: Node) -> None:
    for index, output in enumerate(node.outputs):
        if output.producer is not node or output.index != index:
            _fail(node, f"its output %{output.name} names another producer")


def _check_uses(uses: Mapping[Value, set[Use]]) -> None:
    """Values know who reads them."""
    for value, expected in uses.items():
        for node, index in expected.symmetric_difference(value.uses):
            _fail(node, f"its input {index} and the uses of %{value.name} contradict each other")


# -- schemas

_EMPTY = "an empty list"


_Kind = tuple[DType, Container]


@dataclass(frozen=True, slots=True)
class _Parameter:
    """An input or output of a schema; `variable` is the type variable that it shares with others, empty for none."""

    name: str
    required: bool
    kinds: frozenset["_Kind"]
    variable: str


@dataclass(frozen=True, slots=True)
class _Side:
    """The inputs or the outputs of a schema; a variadic one stands last, for all the rest."""

    parameters: tuple[_Parameter, ...]
    fewest: int
    most: int

    def __getitem__(self, index: int) -> _Parameter:
        return self.parameters[min(index, len(self.parameters) - 1)]

    def fault(self, what: str, count: int) -> str:
        if self.fewest <= count <= self.most:
            return ""
        bounds = str(self.fewest) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        bounds = f"at least {self.fewest}" if self.most > 1 << 20 else bounds
        return f"it has {count} {what}s, and should have {bounds}"


@dataclass(frozen=True, slots=True, eq=False)
class _Schema:
    inputs: _Side
    outputs: _Side
    attributes: Mapping[str, str]
    required: frozenset[str]


def lowest_opset(graph: Graph) -> int:
    """The lowest opset, from `LOWEST_OPSET` on, that has every node of a graph with the meaning that it has here.

    For operators that runtimes know in an older version only, it is that version's if the other nodes are expressed in
    it.
    """
    nodes = list(nested_nodes(graph))
    if any(node.operator in OLD_KERNELS for node in nodes):
        old = max(_lowest_opset(node, LAST_OF_OLD_KERNELS) for node in nodes)
        if old == LAST_OF_OLD_KERNELS:
            return old
    return max((_lowest_opset(node, LOWEST_OPSET) for node in nodes), default=LOWEST_OPSET)


def _lowest_opset(node: Node, floor: int) -> int:
    if node.domain:
        return floor
    if node.operator == "Mod" and not node.attributes.get("fmod") and node.outputs[0].dtype.is_float:
        return 28  # defined for integers alone before
    if node.operator in ("AveragePool", "MaxPool") and node.attributes.get("ceil_mode"):
        floor = max(floor, 22)  # which says what becomes of windows that begin in the padding
    # a node that is malformed in each has no say
    return next((opset for opset in range(floor, OPSET + 1) if next(_faults(node, opset), None) is None), floor)


def _faults(node: Node, opset: int = OPSET) -> Iterator[str]:
    if not node.outputs:
        yield "it has no outputs"
    for name, attribute in node.attributes.items():
        if not _kind(attribute):
            yield f"its attribute {name} is {attribute!r}: no int, float, string, list of these, tensor, type or graph"
    schema = _schema(node.operator, opset)
    if schema is None and node.domain:
        return
    if schema is None:
        hint = did_you_mean(node.operator, _operators(), spell=str)
        yield f"ONNX's opset {opset} has no operator {node.operator}{hint}"
        return
    counts = schema.inputs.fault("input", len(node.inputs)), schema.outputs.fault("output", len(node.outputs))
    yield from filter(None, counts)
    for index, value in enumerate(node.inputs):
        if value is None and schema.inputs[index].required:
            yield f"its input {index} ({schema.inputs[index].name}) is missing"
    yield from _attribute_faults(node, schema)
    inputs = tuple(None if value is None else _kind_of(value) for value in node.inputs)
    fault = _type_variable_fault(schema, inputs, tuple(map(_kind_of, node.outputs)))
    if fault:
        yield fault


def _attribute_faults(node: Node, schema: _Schema) -> Iterator[str]:
    for name, attribute in node.attributes.items():
        kind, found = schema.attributes.get(name), _kind(attribute)
        if kind is None:
            yield f"{node.operator} has no attribute {name}{did_you_mean(name, schema.attributes, spell=str)}"
        elif found != kind and not (found == _EMPTY and kind.endswith("S")):
            yield f"its attribute {name} is {found}, and should be {kind}"
    for name in sorted(schema.required - node.attributes.keys()):
        yield f"its attribute {name} is missing"


def _kind(attribute: Attribute) -> str:
    """The kind of an attribute as `onnx.defs` names it; nothing for what is no attribute, such as numpy's ints."""
    match attribute:
        case int():
            return "INT"
        case float():
            return "FLOAT"
        case str():
            return "STRING"
        case np.ndarray():
            return "TENSOR"
        case Graph():
            return "GRAPH"
        case TensorType():
            return "TYPE_PROTO"
        case ():
            return _EMPTY
        case tuple():
            kinds = {_kind_of_items(held) for held in set(map(type, attribute))}  # there may be a million items
            return f"{kinds.pop()}S" if kinds in ({"INT"}, {"FLOAT"}, {"STRING"}) else ""
        case _:
            return ""


def _kind_of_items(of: type) -> str:
    return next((name for held, name in ((int, "INT"), (float, "FLOAT"), (str, "STRING")) if issubclass(of, held)), "")


def _kind_of(value: Value) -> _Kind:
    return value.type.dtype, value.type.container


def _describe(kind: _Kind) -> str:
    dtype, container = kind
    return f"{container.value} of {dtype}" if container.value else str(dtype)


@lru_cache(maxsize=1 << 9)
def _type_variable_fault(schema: _Schema, inputs: tuple[_Kind | None, ...], outputs: tuple[_Kind, ...]) -> str:
    """What is wrong with the element types, nothing if they suit; cached, for nodes repeat a few combinations."""
    bound: dict[str, tuple[_Kind, str]] = {}
    for what, side, kinds in (("input", schema.inputs, inputs), ("output", schema.outputs, outputs)):
        for index, kind in enumerate(kinds):
            parameter = side[index]
            if kind is None:
                continue
            if kind not in parameter.kinds:
                allowed = ", ".join(sorted(map(_describe, parameter.kinds))) or "no tensor"
                return f"its {what} {index} ({parameter.name}) is {_describe(kind)}, and may be {allowed}"
            if not parameter.variable:
                continue
            other, name = bound.setdefault(parameter.variable, (kind, parameter.name))
            if other != kind:
                mine, others = _describe(kind), _describe(other)
                return f"its {what} {index} ({parameter.name}) is {mine}, and should be {others} as {name} is"
    return ""


def schema_of(operator: str, opset: int = OPSET) -> "OpSchema | None":
    """The schema of an operator of the standard; None where it has none.

    That of another domain than the standard's own is the newest: operators that their domain gave up are as they were
    last.
    """
    from onnx import defs  # a quarter of a second to import: loading and printing graphs do without

    domain, _, name = operator.rpartition("::")
    try:
        schema = defs.get_schema(name, domain) if domain else defs.get_schema(name, opset)
        if schema.deprecated and domain:
            schema = defs.get_schema(name, schema.since_version - 1, domain)
    except defs.SchemaError:
        return None
    return None if schema.deprecated else schema


@cache
def _schema(operator: str, opset: int) -> _Schema | None:
    schema = schema_of(operator, opset)
    if schema is None:
        return None
    return _Schema(
        inputs=_Side(_parameters(schema.inputs), schema.min_input, schema.max_input),
        outputs=_Side(_parameters(schema.outputs), schema.min_output, schema.max_output),
        attributes={name: str(attribute.type).rpartition(".")[2] for name, attribute in schema.attributes.items()},
        required=frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def _parameters(parameters: "Sequence[OpSchema.FormalParameter]") -> tuple[_Parameter, ...]:
    codes = _codes()
    return tuple(
        _Parameter(
            name=parameter.name,
            required=not str(parameter.option).endswith("Optional"),
            kinds=frozenset(codes[name] for name in parameter.types if name in codes),
            variable=parameter.type_str if parameter.is_homogeneous else "",
        )
        for parameter in parameters
    )


@cache
def _codes() -> Mapping[str, _Kind]:
    """The kinds by ONNX's names for them."""
    return {_onnx_name(dtype, container): (dtype, container) for dtype in DType for container in Container}


def _onnx_name(dtype: DType, container: Container) -> str:
    from onnx import TensorProto

    name = f"tensor({TensorProto.DataType.Name(dtype.value).lower()})"
    for word in reversed(container.value.replace("sequence", "seq").split()):
        holder, _, key = word.partition("_")
        name = f"{holder}({key},{name})" if key else f"{holder}({name})"
    return name


@cache
def _operators() -> frozenset[str]:
    from onnx import defs

    return frozenset(
        schema.name for schema in defs.get_all_schemas() if not schema.domain and _schema(schema.name, OPSET)
    )
