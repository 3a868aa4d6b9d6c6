# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""The lowering of a graph to Relax, node by node.

Operators go through the converters of TVM's ONNX importer, one at a time, so that a refusal names the layer. Shapes do
not: the graph knows every dimension as an expression of the inputs' symbols, so that nodes which compute shapes at run
time are not lowered at all, and every result must have the type that the graph gives it.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import Any

from tvm import IRModule, relax, tirx
from tvm.ir import Op
from tvm.sym import Analyzer

from ...ir.dims import Dim, evaluate, symbols
from ...ir.errors import TargetError
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.infer import contents
from ...ir.types import DType, TensorType
from ...passes.legalization.origins import Origins
from ...targets import Target
from . import converters
from .carriers import carried, carrier
from .choices import ESTIMATED, Choices, Plainness, UnfitError, result_of
from .groups import Group, find_groups
from .guards import Guards, guarded, read_places
from .importer import imported
from .kernels.elements import ELEMENTS
from .kernels.machine import Machine
from .layouts import Blocked, Layouts
from .tables import tabulated

_CALLS = {
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": tirx.max,
    "Min": tirx.min,
}


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph as a Relax module.

    Attributes: module: whose `main` takes the inputs in order and returns a tuple of the outputs in order, with a row
    of the late guards' sizes behind them if there are any. guards: the sizes that must not be 0 when it runs. results:
    the value of the graph that each variable of `main` is computed for, both by their names.
    """

    module: IRModule
    guards: Guards
    results: Mapping[str, str]


def to_relax(
    graph: Graph,
    origins: Origins,
    target: Target,
    choices: Choices = ESTIMATED,
    plainness: Mapping[str, Plainness] = MappingProxyType({}),
) -> Lowered:
    """Lower a graph to a Relax module.

    Args:
        graph: legal and with its constants folded.
        origins: the operators that refusals name.
        target: the machine that kernels are generated for.
        choices: decide in which ways.
        plainness: how plain kernels have to be, by the names of their results, where they aren't the best ones.

    Raises:
        TargetError: an operator that TVM can't run, with the layer and TVM's reason.
    """
    lowering = Lowering(graph, origins, Machine.of(target), choices, plainness)
    return Lowered(lowering.module(), lowering.guards(), lowering.results)


class Lowering:
    """One walk over a graph.

    Attributes:
        block: TVM's builder, which converters emit into.
        given: the symbols of the inputs' shapes.
        machine: the machine that kernels are generated for.
        choices: decide in which ways.
        layouts: the values that are held in blocks of channels.
        results: the value that each variable is computed for, both by their names, after `module`.
    """

    def __init__(
        self,
        graph: Graph,
        origins: Origins,
        machine: Machine,
        choices: Choices,
        plainness: Mapping[str, Plainness] = MappingProxyType({}),
    ) -> None:
        self.block = relax.BlockBuilder()
        self.machine = machine
        self.choices = choices
        self.results: dict[str, str] = {}
        self.layouts = Layouts(self)
        self.given = frozenset[str]().union(*(value.type.symbols for value in graph.inputs))
        self._graph = graph
        self._origins = origins
        self._sizes: dict[str, Any] = {}
        self._new = count()
        self._values: dict[Value, Any] = {}
        self._kernels: dict[tirx.PrimFunc, Any] = {}
        self._guards: dict[str, str] = {}
        self._analyzer = Analyzer()
        self._best = machine, choices
        self._plainness = plainness
        self._ends: dict[Any, str] = {}  # the names of results of `kernels`, by the variables that hold them

    def module(self) -> IRModule:
        for dim in (dim for value in self._graph.inputs for dim in value.shape):
            self._bind(dim)
        parameters = [self._parameter(index, value) for index, value in enumerate(self._graph.inputs)]
        with warnings.catch_warnings(), self.block.function("main", parameters):
            warnings.simplefilter("ignore")
            with self.block.dataflow():
                for node, group in kernels(self._graph):
                    self._lower_plainly(node, group)
                results = [self.tensor(value) for value in self._graph.outputs.values()]
                if late := self.guards().late:
                    results.append(self.block.emit(relax.op.shape_to_tensor(self.shape(list(late)))))
                result = self.block.emit_output(relax.Tuple(results))
            self.block.emit_func_output(result)
        module = self.block.get()
        self._check(module["main"])
        self._note_results(module["main"])
        return module

    def guards(self) -> Guards:
        """Return the guards of the nodes lowered so far: the sizes that must not be 0."""
        early = {dim: user for dim, user in self._guards.items() if symbols(dim) <= self.given}
        late = {dim: user for dim, user in self._guards.items() if dim not in early}
        return Guards(early, late, read_places(self._graph, self._origins.name))

    def size(self, dim: Dim) -> Any:
        """Return a dimension as TVM takes it: an int, or an expression over its variables."""
        try:
            return evaluate(dim, self._sizes, _CALLS)
        except KeyError as error:
            raise NotImplementedError(f"the size {dim} depends on data in a way that isn't followed") from error

    def shape(self, dims: Sequence[Dim]) -> Any:
        """Return dimensions as a Relax shape."""
        return relax.ShapeExpr([self.size(dim) for dim in dims])

    def symbol(self, label: str) -> str:
        """Return a new symbol, for a size that only the lowering knows of."""
        return f"{label}__{next(self._new)}"

    def is_bound(self, dim: Dim) -> bool:
        """Whether a dimension's symbols have their values at this point."""
        return symbols(dim) <= self._sizes.keys()

    def computed(self, sizes: Any, dims: Sequence[Dim]) -> Any:
        """Bind dimensions to sizes that are computed while the model runs, and return them as a Relax shape.

        Args:
            sizes: a row of int64 with a size for each dimension, and perhaps further ones behind them that must be 0.
            dims: that have these sizes; where they are known already, this is checked when the model runs.
        """
        for dim in dims:
            self._bind(dim)
        shape = self.shape(dims)
        found = self.block.emit(relax.op.tensor_to_shape(self.block.emit(sizes)))
        zeros = [tirx.const(0, "int64")] * (int(sizes.ty.shape[0]) - len(dims))
        self.block.match_cast(found, relax.ShapeType([*shape.values, *zeros]))
        return shape

    def tensor(self, value: Value) -> Any:
        """Return a value as a Relax tensor; shapes that were followed symbolically become tensors here."""
        if value not in self._values:
            if _is_empty(value):  # as a constant it couldn't be read back from a file
                zeros = relax.op.zeros(value.type.static_shape, str(carrier(value.dtype)))
                self._values[value] = self.block.emit(zeros)
            elif isinstance(value, Constant):
                self._values[value] = relax.const(carried(value.data), str(carrier(value.dtype)))
            elif value in self.layouts:
                self._values[value] = self.block.emit(self.layouts.plain(value))
            else:
                self._values[value] = self._materialized(value)
        return self._values[value]

    def hold(self, value: Value, tensor: Any) -> None:
        """Let a tensor stand for a value that isn't in the graph, but was made for nodes that aren't either."""
        self._values[value] = tensor

    def shaped(self, value: Value, shape: Sequence[Dim]) -> Any:
        """Return a value as a Relax tensor of another shape with as many elements."""
        if tuple(shape) == value.shape:
            return self.tensor(value)
        sizes = [dim for dim in shape if isinstance(dim, int)]
        if isinstance(value, Constant) and len(sizes) == len(shape):
            return relax.const(value.data.reshape(sizes), str(value.dtype))
        return self.block.emit(relax.op.reshape(self.tensor(value), self.shape(shape)))

    def kernel(self, function: Callable[..., Any], *arguments: Any, **sizes: Any) -> Any:
        """Call a kernel that is given as a function from TVM's tensors to a tensor; the arguments are Relax's.

        TVM gives a kernel symbols of its own, so that numbers computed with sizes must be passed by name: as an
        expression, or a row of them.
        """
        name = getattr(function, "func", function).__name__.strip("_")
        tensors = [self.block.normalize(argument) for argument in arguments]
        return self.block.call_te(function, *tensors, **sizes, primfunc_name_hint=name)

    def prim_func(self, name: str, function: tirx.PrimFunc, arguments: Sequence[Any], *types: TensorType) -> Any:
        """Call a kernel in TIR, which takes the arguments and, behind them, results of the given types.

        The sizes of its buffers may be variables of its own, which it reads from its arguments. The module gets one of
        equal functions.
        """
        if (kernel := self._kernels.get(function)) is None:  # TVM would compare it with all others each time
            kernel = self._kernels[function] = self.block.add_func(function, name)
        results = [relax.TensorType(self.shape(type.shape), str(carrier(type.dtype))) for type in types]
        given = [self.block.normalize(argument) for argument in arguments]
        return relax.call_tir(kernel, given, results if len(results) > 1 else results[0])

    def typed(self, expression: Any, type: TensorType) -> Any:
        """Bind an expression to a variable of the given type."""
        expression = self.block.emit(expression)
        found = expression.ty
        if not isinstance(found, relax.TensorType) or str(found.dtype) != str(carrier(type.dtype)):
            raise TypeError(f"it gives {found} where {type} is expected")
        for dim in type.shape:
            self._bind(dim)  # a size that depends on data gets its value from the cast below
        return self.held(expression, type)

    def held(self, expression: Any, type: TensorType) -> Any:
        """Give an expression the shape that it must have; it is checked at run time where TVM can't prove it."""
        shape = self.shape(type.shape)
        if self._same(expression.ty.shape, shape):
            return expression
        return self.block.match_cast(expression, relax.TensorType(shape, str(carrier(type.dtype))))

    def _check(self, function: Any) -> None:
        """Refuse results whose shape TVM can't tell: they have no kernels, so that it would fail while compiling."""
        made_by = {value: output.producer for output, value in self._values.items()}
        stuck = ""
        for binding in (binding for block in function.body.blocks for binding in block.bindings):
            stuck = stuck or _unshaped(binding)
            node = made_by.get(binding.var)
            if stuck and node is not None:
                raise TargetError(f"{self._refusal(node)}: it can't tell the shape that {stuck} gives")

    def _bind(self, dim: Dim) -> None:
        if isinstance(dim, str) and dim.isidentifier():
            self._sizes.setdefault(dim, tirx.Var(dim, "int64"))

    def _same(self, found: Any, shape: Any) -> bool:
        if not isinstance(found, relax.ShapeExpr) or len(found.values) != len(shape.values):
            return False
        return all(self._analyzer.can_prove_equal(a, b) for a, b in zip(found.values, shape.values, strict=True))

    def _parameter(self, index: int, value: Value) -> Any:
        if unbound := value.type.symbols - self._sizes.keys():
            raise TargetError(f"input {value.name!r}: TVM needs {', '.join(unbound)} as a dimension of its own")
        held = relax.TensorType(self.shape(value.shape), str(carrier(value.dtype)))
        self._values[value] = relax.Var(f"input_{index}", held)
        return self._values[value]

    def _materialized(self, value: Value) -> Any:
        """Make a small integer tensor from its symbolic elements."""
        elements = contents(value)
        if not elements:
            raise TargetError(f"TVM can't hold %{value.name}: {value.type}")
        if not all(map(self.is_bound, elements)):
            raise TargetError(f"TVM can't hold %{value.name}: it depends on data in a way that isn't followed")
        row: Any = relax.op.shape_to_tensor(self.shape(elements))
        row = self.block.emit(relax.op.reshape(row, self.shape(value.shape)))
        return self.typed(row if value.dtype is DType.int64 else relax.op.astype(row, str(value.dtype)), value.type)

    def _lower_plainly(self, node: Node, group: Group | None) -> None:
        """Lower one of `kernels`, as plainly as it has to be."""
        name = result_of(node)
        plainness = self._plainness.get(name, Plainness.BEST)
        (self.machine, self.choices), members = self._best, [(node, group)]
        if plainness is not Plainness.BEST:
            self.machine, self.choices = self.machine.plain, ESTIMATED
        if plainness is Plainness.IMPORTED and group is not None:
            members = [(member, None) for member in (group.anchor, *group.chain)]
        for member, its_group in members:
            if its_group is not None and self.machine.has_tables:
                its_group = replace(its_group, epilogue=tabulated(its_group.epilogue))
            self._lower(member, its_group)
            for value in member.outputs:
                blocks = self.layouts.held(value)
                self._ends[self._values.get(value) if blocks is None else blocks] = name

    def _note_results(self, function: Any) -> None:
        """Note which result each variable belongs to: variables before a result were computed for it."""
        waiting: list[str] = []
        for binding in (binding for block in function.body.blocks for binding in block.bindings):
            waiting.append(binding.var.name)
            if (name := self._ends.get(binding.var)) is not None:
                self.results |= dict.fromkeys(waiting, name)
                waiting.clear()

    def _lower(self, node: Node, group: Group | None) -> None:
        """Lower a node, or the group whose last node it is."""
        members = [node] if group is None else [group.anchor, *group.chain]
        try:
            self._hold_results(node, group)
        except UnfitError:
            raise
        except Exception as error:  # the converters raise anything, and TVM's own checks what C++ throws
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TargetError(f"{self._refusal(members[0])}: {reason}") from error
        for member in members:
            lowered = (value for value in member.inputs if value in self._values or value in self.layouts)
            for dim in guarded(member, lowered):
                self._guards.setdefault(dim, f"{member.location}: {self._origins.name(member)}")

    def _hold_results(self, node: Node, group: Group | None) -> None:
        twin = self.layouts.twin(node) if group is None else None
        if twin is not None:
            (result,) = [self.layouts.pixelwise(twin)] if twin.operator in ELEMENTS else self._convert(twin, None)
            self.layouts.hold(node.output, self.typed(result, twin.output.type))
            return
        for output, result in zip(node.outputs, self._convert(node, group), strict=True):
            if isinstance(result, Blocked):
                self.layouts.hold(output, self.typed(result.tensor, self.layouts.type(output.type)))
            elif not _is_empty(output):
                self._values[output] = self.typed(result, output.type)

    def _refusal(self, node: Node) -> str:
        return f"{node.location}: TVM can't run {self._origins.name(node)}"

    def _convert(self, node: Node, group: Group | None) -> Sequence[Any]:
        own = converters.CONVERTERS.get(node.operator)
        if group is not None:
            found = converters.TEMPLATES[group.anchor.operator].lower(self, group)
        else:
            found = imported(self, node) if own is None else own(self, node)
        if isinstance(found, Blocked):
            return [found]
        result = self.block.normalize(found)
        if isinstance(result, relax.Tuple):
            results = list(result.fields)
        elif isinstance(result.ty, relax.TupleType):
            results = [relax.TupleGetItem(result, index) for index in range(len(result.ty.fields))]
        else:
            results = [result]
        if len(results) < len(node.outputs):
            raise NotImplementedError("its further outputs are not computed")
        return results[: len(node.outputs)]


def _unshaped(binding: Any) -> str:
    """Return the TVM operator that a binding calls, if TVM would need its unknown shape to make a kernel."""
    call = binding.value
    if not isinstance(call, relax.Call) or not isinstance(call.op, Op) or call.op.get_attr("FDataDependent"):
        return ""
    types = call.ty.fields if isinstance(call.ty, relax.TupleType) else [call.ty]
    is_known = all(not isinstance(held, relax.TensorType) or held.shape is not None for held in types)
    return "" if is_known or call.op.get_attr("FLegalize") is None else call.op.name


def kernels(graph: Graph) -> list[tuple[Node, Group | None]]:
    """Return what is lowered, in order: single nodes, and the last nodes of groups with their groups."""
    needed = _needed_nodes(graph)
    nodes = [node for node in graph.nodes if node in needed]
    groups = find_groups(graph, nodes, converters.TEMPLATES)
    pairs = ((node, groups.get(node)) for node in nodes)
    return [(node, group) for node, group in pairs if group is None or node is group.last]


def _needed_nodes(graph: Graph) -> set[Node]:
    """Return the nodes to lower, without those that only compute shapes which are followed symbolically."""
    read = {value for value in graph.outputs.values() if not _is_known(value)}
    needed: set[Node] = set()
    for node in graph.nodes_backwards:
        if not read.isdisjoint(node.outputs):
            needed.add(node)
            read.update(value for value in node.inputs if value is not None and not _is_known(value))
    return needed


def _is_known(value: Value) -> bool:
    """Whether a value is made from symbolic elements, or certainly has none, so that its node isn't lowered."""
    if value.producer is None:
        return False
    return _is_empty(value) or (value.dtype in (DType.int32, DType.int64) and contents(value) is not None)


def _is_empty(value: Value) -> bool:
    return value.type.is_static and 0 in value.shape
