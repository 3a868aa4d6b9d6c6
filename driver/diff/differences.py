"""In what two models differ: nodes, their attributes, types and inputs, weights, and outputs on probes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.analysis.cost import Cost, summarize
from ...ir.errors import ModelError
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.text import print_graph
from ...passes.base import Feeds
from ...passes.probes import make_probes, run_graph
from ..comparison import OutputDifference, output_differences
from ..data import ports_of, read_data
from ..inspection import model_of
from ..model import read_model
from ..page.history import Change, encoded
from ..page.nodes import NodeRows, Row
from ..user_code import isolated_imports
from .alignment import align

_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class NodeDifference:
    """A node of B that differs from its counterpart in A.

    Attributes:
        name: the name of B's result.
        module: the module that B's node came from.
        operator: the operators of A and B; one of them where they are the same.
        what: what differs, a sentence each.
    """

    name: str
    module: str
    operator: str
    what: Sequence[str]


@dataclass(frozen=True, slots=True)
class WeightDifference:
    """A weight of a node in A and B, as numbers: quantized integers count as the numbers that they stand for.

    Attributes:
        name: the name of the weight in B.
        module: the module of B's node.
        types: the types in A and B.
        means: the means in A and B.
        deviations: the standard deviations in A and B.
        largest: the largest absolute difference; None where the shapes differ.
        relative: the relative difference as the ratio of L2 norms; None where the shapes differ.
    """

    name: str
    module: str
    types: tuple[str, str]
    means: tuple[float, float]
    deviations: tuple[float, float]
    largest: float | None
    relative: float | None


@dataclass(frozen=True, slots=True)
class Differences:
    """Two models set against one another.

    Attributes:
        names: the names of both models.
        costs: the costs of both models.
        same: how many nodes of B are as their counterparts in A.
        nodes: the nodes of B that differ from their counterparts.
        only_a: the nodes of A without a counterpart, as texts.
        only_b: the nodes of B without a counterpart, as texts.
        weights: the weights that differ, the most different ones first.
        outputs: the difference of each output, on probes.
        unknown: why the outputs could not be compared; empty if they were.
        graphs: both graphs, as the page shows them.
    """

    names: tuple[str, str]
    costs: tuple[Cost, Cost]
    same: int
    nodes: Sequence[NodeDifference]
    only_a: Sequence[str]
    only_b: Sequence[str]
    weights: Sequence[WeightDifference]
    outputs: Sequence[OutputDifference]
    unknown: str
    graphs: Mapping[str, Any]


def diff(a: str, b: str, data: str | None = None) -> Differences:
    """Set two models against one another.

    Args:
        a: a reference to a model, or the folder of an artifact of ONNX Runtime.
        b: another model or artifact.
        data: the data whose first batches both run on; None for random ones.

    Raises:
        PlanishError: one of them can't be read.
    """
    with isolated_imports(Path()):
        first, second = (read_model(model_of(reference)) for reference in (a, b))
        batches = [] if data is None else [batch.inputs for batch in read_data(data, Path(), ports_of(first))]
        return differences(first, second, (a, b), batches)


def differences(a: Graph, b: Graph, names: tuple[str, str], data: Sequence[Feeds] = ()) -> Differences:
    """Set two graphs against one another.

    Args:
        a: the reference.
        b: what is set against it.
        names: the names of both graphs.
        data: the batches that both run on; random ones if there are none.
    """
    pairs = align(a, b)
    nodes = [it for node, other in pairs.items() if (it := _of_nodes(other, node, pairs)) is not None]
    weights = [it for node, other in pairs.items() for it in _of_weights(other, node)]
    outputs, unknown = _of_outputs(a, b, data)
    counterparts = set(pairs.values())
    return Differences(
        names=names,
        costs=(summarize(a), summarize(b)),
        same=len(pairs) - len(nodes),
        nodes=nodes,
        only_a=[_told(node) for node in a.nodes if node not in counterparts],
        only_b=[_told(node) for node in b.nodes if node not in pairs],
        weights=sorted(weights, key=lambda it: -np.inf if it.relative is None else -it.relative),
        outputs=outputs,
        unknown=unknown,
        graphs=_graphs(a, b, pairs),
    )


def _told(node: Node) -> str:
    return f"{node.operator} {node.outputs[0].name} at {node.location}"


def _of_nodes(a: Node, b: Node, pairs: Mapping[Node, Node]) -> NodeDifference | None:
    what = [*_attributes(a, b), *_types(a, b), *_inputs(a, b, pairs)]
    if a.operator == b.operator and not what:
        return None
    operator = a.operator if a.operator == b.operator else f"{a.operator} -> {b.operator}"
    return NodeDifference(b.outputs[0].name, b.location.module, operator, what)


def _attributes(a: Node, b: Node) -> Iterator[str]:
    if a.operator != b.operator:
        return
    for name in dict.fromkeys((*a.attributes, *b.attributes)):
        old, new = a.attributes.get(name), b.attributes.get(name)
        if _spelled(old) != _spelled(new):
            yield f"{name} = {_spelled(new)[:80]}, was {_spelled(old)[:80]}"


def _spelled(value: Any) -> str:
    if isinstance(value, Graph):
        return print_graph(value)
    return "unset" if value is None else str(value.tolist() if isinstance(value, np.ndarray) else value)


def _types(a: Node, b: Node) -> Iterator[str]:
    old, new = (", ".join(str(value.type) for value in node.outputs) for node in (a, b))
    if old != new:
        yield f"makes {new}, was {old}"


def _inputs(a: Node, b: Node, pairs: Mapping[Node, Node]) -> Iterator[str]:
    for index in range(max(len(a.inputs), len(b.inputs))):
        old, new = a.input(index), b.input(index)
        if _origin(old, {}) != _origin(new, pairs):
            yield f"reads {_shown(new)} as input {index}, was {_shown(old)}"


def _origin(value: Value | None, pairs: Mapping[Node, Node]) -> Any:
    """What a value is, to be compared between graphs; rounding to integers and back doesn't count."""
    while value is not None and value.producer is not None and value.producer not in pairs and _rounds(value.producer):
        value = value.producer.inputs[0]
    if value is None or isinstance(value, Constant):
        return None if value is None else "constant"
    if value.producer is None:
        return "input", value.index
    return pairs.get(value.producer, value.producer), value.index


def _rounds(node: Node) -> bool:
    return node.operator in ("DequantizeLinear", "QuantizeLinear")


def _shown(value: Value | None) -> str:
    return "nothing" if value is None else f"%{value.name}"


def _of_weights(a: Node, b: Node) -> Iterator[WeightDifference]:
    for old, new in zip(a.inputs, b.inputs, strict=False):
        if old is None or new is None:
            continue
        x, y = _numbers(old), _numbers(new)
        if x is None or y is None or x is y or not (x.size and y.size):
            continue
        if x.ndim == 2 and x.shape != y.shape == x.shape[::-1]:  # a factor of MatMul that Gemm has turned
            x = x.T
        if x.shape == y.shape and old.dtype is new.dtype and np.array_equal(x, y):
            continue
        largest = relative = None
        if x.shape == y.shape:
            error = np.abs(x - y)
            largest, relative = float(error.max()), float(np.linalg.norm(error) / (np.linalg.norm(x) + _TINY))
        yield WeightDifference(
            name=new.name,
            module=b.location.module,
            types=(_type(old), _type(new)),
            means=(float(x.mean()), float(y.mean())),
            deviations=(float(x.std()), float(y.std())),
            largest=largest,
            relative=relative,
        )


def _type(value: Value) -> str:
    """The type in which a weight is held, before it is converted."""
    while value.producer is not None and value.producer.inputs[0] is not None:
        value = value.producer.inputs[0]
    return str(value.type)


def _numbers(value: Value) -> np.ndarray | None:
    """A weight as float64, with what its integers stand for; None for what isn't known before the model runs."""
    known = _known(value)
    if known is None or known.dtype == object or known.dtype.kind in "US":
        return None
    return known.astype(np.float64)


def _known(value: Value) -> np.ndarray | None:
    if isinstance(value, Constant):
        return value.data
    node = value.producer
    if node is None or node.operator not in ("Cast", "DequantizeLinear"):
        return None
    arrays = [None if it is None else _known(it) for it in node.inputs]
    if any(array is None for array, it in zip(arrays, node.inputs, strict=True) if it is not None):
        return None
    from ...ir.interpreter import evaluate_constant

    alone = Graph()
    constants = [None if array is None else alone.add_constant(array) for array in arrays]
    copy = alone.add_node(node.operator, constants, [value.type], node.attributes, location=node.location)
    return evaluate_constant(copy)[0]


def _of_outputs(a: Graph, b: Graph, data: Sequence[Feeds]) -> tuple[Sequence[OutputDifference], str]:
    """How far the outputs on the same inputs are apart, or why that isn't known."""
    if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
        return (), "they have another number of inputs or outputs"
    try:
        probes = make_probes(a, data)
        renamed = [
            {value.name: probe[old.name] for old, value in zip(a.inputs, b.inputs, strict=True)} for probe in probes
        ]
        found = [list(outputs.values()) for outputs in run_graph(a, probes)]
        theirs = [list(outputs.values()) for outputs in run_graph(b, renamed)]
        return [it for it in output_differences(list(a.outputs), found, theirs).values() if it is not None], ""
    except ModelError as error:
        return (), str(error)


def _graphs(a: Graph, b: Graph, pairs: Mapping[Node, Node]) -> Mapping[str, Any]:
    """Both graphs as the page shows them, nodes of B by the names of their counterparts in A."""
    ours, theirs = (NodeRows({}).rows(graph) for graph in (a, b))
    names = {node.outputs[0].name: other.outputs[0].name for node, other in pairs.items()}
    names |= {new.name: old.name for old, new in zip(a.inputs, b.inputs, strict=False)}
    names |= {f"output:{new}": f"output:{old}" for old, new in zip(a.outputs, b.outputs, strict=False)}
    free = {name: name if name not in ours else f"{name} of B" for name in theirs if name not in names}
    names |= free
    renamed: dict[str, Row] = {}
    for name, row in theirs.items():
        inputs = tuple(names.get(it, it) for it in row.inputs)
        renamed[names[name]] = row._replace(name=names[name], inputs=inputs)
    made = {name: row for name, row in renamed.items() if ours.get(name) != row}
    return encoded([Change((0,), ours, []), Change((1,), made, [name for name in ours if name not in renamed])])
