"""The lowering of a graph to Relax, node by node.

Operators go through converters of ours, or through those of TVM's ONNX importer, one at a time, so that a refusal names
the layer. Shapes do not: the graph knows every dimension as an expression of the inputs' symbols, so that nodes which
compute shapes at run time are not lowered at all, and every result must have the type that the graph gives it.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from tvm import IRModule, relax
from tvm.ir import Op
from tvm.runtime import Tensor

from ....ir.contents import contents
from ....ir.dims import symbols
from ....ir.errors import TargetError
from ....ir.graph import Graph, Node, Value
from ....ir.types import DType
from ....passes.legalization.origins import Origins
from ....targets import Target
from ..errors import line_of
from ..kernels.machine import Machine
from ..kernels.vector_math import ELEMENTS
from ..runtime.guards import Guards
from ..runtime.weights import PlainWeights
from .configs import ESTIMATED, Plainness, TuningPolicy, UnfitError, result_of
from .converters.table import CONVERTERS, FUSED_KERNELS
from .emitter import Blocked, Emitter, is_empty
from .fusion import FusionGroup, find_groups
from .importer import imported
from .layouts import blocked_elementwise, blocked_type, hold_blocked, twin_of
from .lookup_tables import tabulated
from .preconditions import guarded, read_places


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph as a Relax module.

    Attributes:
        module: the module, whose `main` takes the inputs in order and returns a tuple of the outputs in order, with a
            row of the late guards' sizes behind them if there are any.
        guards: the sizes that must not be 0 when it runs.
        results: the value of the graph that each variable of `main` is computed for, both by their names.
        plain: what constants of the module are packed from when they are loaded, and how.
    """

    module: IRModule
    guards: Guards
    results: Mapping[str, str]
    plain: Mapping[Tensor, PlainWeights]


def to_relax(
    graph: Graph,
    origins: Origins,
    target: Target,
    choices: TuningPolicy = ESTIMATED,
    plainness: Mapping[str, Plainness] = MappingProxyType({}),
) -> Lowered:
    """Lower a graph to a Relax module.

    Args:
        graph: the graph, legal and with its constants folded.
        origins: the operators that refusals name.
        target: the machine that kernels are generated for.
        choices: the choices of how kernels are generated.
        plainness: how plain kernels have to be, by the names of their results, where they aren't the best ones.

    Raises:
        TargetError: an operator that TVM can't run, with the layer and TVM's reason.
    """
    emitter = Emitter(graph, Machine.of(target), choices)
    walk = Walk(graph, origins, emitter, plainness)
    return Lowered(walk.module(), walk.guards(), walk.results, emitter.plain)


class Walk:
    """One walk over a graph.

    Attributes:
        results: the value that each variable is computed for, both by their names, after `module`.
    """

    def __init__(
        self,
        graph: Graph,
        origins: Origins,
        emitter: Emitter,
        plainness: Mapping[str, Plainness] = MappingProxyType({}),
    ) -> None:
        self.results: dict[str, str] = {}
        self._graph = graph
        self._origins = origins
        self._emitter = emitter
        self._best = emitter.machine, emitter.choices
        self._plainness = plainness
        self._guards: dict[str, str] = {}
        self._ends: dict[
            relax.Expr | None, str
        ] = {}  # the names of results of `kernels`, by the variables that hold them

    def module(self) -> IRModule:
        emitter, block = self._emitter, self._emitter.block
        parameters = [emitter.parameter(index, value) for index, value in enumerate(self._graph.inputs)]
        with warnings.catch_warnings(), block.function("main", parameters):
            warnings.simplefilter("ignore")
            with block.dataflow():
                for node, group in kernels(self._graph):
                    self._lower_plainly(node, group)
                results = [emitter.tensor(value) for value in self._graph.outputs.values()]
                if late := self.guards().late:
                    results.append(block.emit(relax.op.shape_to_tensor(emitter.shape(list(late)))))
                result = block.emit_output(relax.Tuple(results))
            block.emit_func_output(result)
        module = block.get()
        main = module["main"]
        assert isinstance(main, relax.Function)
        self._check(main)
        self._note_results(main)
        return module

    def guards(self) -> Guards:
        """Return the guards of the nodes lowered so far: the sizes that must not be 0."""
        given = self._emitter.given
        early = {dim: user for dim, user in self._guards.items() if symbols(dim) <= given}
        late = {dim: user for dim, user in self._guards.items() if dim not in early}
        return Guards(early, late, read_places(self._graph, given, self._origins.name))

    def _check(self, function: relax.Function) -> None:
        """Refuse results whose shape TVM can't tell: they have no kernels, so that it would fail while compiling."""
        values = (value for node in self._graph.nodes for value in node.outputs)
        made_by = {self._emitter.bound(value): value.producer for value in values}
        stuck = ""
        for binding in (binding for block in function.body.blocks for binding in block.bindings):
            stuck = stuck or _unshaped(binding)
            node = made_by.get(binding.var)
            if stuck and node is not None:
                raise TargetError(f"{self._refusal(node)}: it can't tell the shape that {stuck} gives")

    def _lower_plainly(self, node: Node, group: FusionGroup | None) -> None:
        """Lower one of `kernels`, as plainly as it has to be."""
        name = result_of(node)
        plainness = self._plainness.get(name, Plainness.BEST)
        emitter, members = self._emitter, [(node, group)]
        emitter.machine, emitter.choices = self._best
        if plainness is not Plainness.BEST:
            emitter.machine, emitter.choices = emitter.machine.plain, ESTIMATED
        if plainness is Plainness.IMPORTED and group is not None:
            members = [(member, None) for member in group.nodes]
        for member, its_group in members:
            if its_group is not None and emitter.machine.has_tables:
                its_group = replace(its_group, epilogue=tabulated(its_group.epilogue))
            self._lower(member, its_group)
            for value in member.outputs:
                self._ends[emitter.blocked.get(value, emitter.bound(value))] = name

    def _note_results(self, function: relax.Function) -> None:
        """Note which result each variable belongs to: variables before a result were computed for it."""
        waiting: list[str] = []
        for binding in (binding for block in function.body.blocks for binding in block.bindings):
            waiting.append(binding.var.name)
            if (name := self._ends.get(binding.var)) is not None:
                self.results |= dict.fromkeys(waiting, name)
                waiting.clear()

    def _lower(self, node: Node, group: FusionGroup | None) -> None:
        """Lower a node, or the group whose last node it is."""
        members = (node,) if group is None else group.nodes
        try:
            self._hold_results(node, group)
        except UnfitError:
            raise
        except Exception as error:  # the converters raise anything, and TVM's own checks what C++ throws
            raise TargetError(f"{self._refusal(members[0])}: {line_of(error)}") from error
        for member in members:
            for dim in guarded(
                member, (value for value in member.inputs if value is not None and value in self._emitter)
            ):
                self._guards.setdefault(dim, f"{member.location}: {self._origins.name(member)}")

    def _hold_results(self, node: Node, group: FusionGroup | None) -> None:
        emitter = self._emitter
        twin = twin_of(emitter, node) if group is None else None
        if twin is not None:
            (result,) = [blocked_elementwise(emitter, twin)] if twin.operator in ELEMENTS else self._convert(twin, None)
            assert not isinstance(result, Blocked)
            hold_blocked(emitter, node.output, emitter.typed(result, twin.output.type))
            return
        for output, result in zip(node.outputs, self._convert(node, group), strict=True):
            if isinstance(result, Blocked):
                type = blocked_type(emitter, output.type)
                hold_blocked(emitter, output, emitter.typed(result.tensor, type))
            elif not is_empty(output):
                emitter.bind(output, emitter.typed(result, output.type))

    def _refusal(self, node: Node) -> str:
        return f"{node.location}: TVM can't run {self._origins.name(node)}"

    def _convert(self, node: Node, group: FusionGroup | None) -> Sequence[relax.Expr | Blocked]:
        own = CONVERTERS.get(node.operator)
        if group is not None:
            found = FUSED_KERNELS[group.anchor.operator].lower(self._emitter, group)
        else:
            found = imported(self._emitter, node) if own is None else own(self._emitter, node)
        if isinstance(found, Blocked):
            return [found]
        result = self._emitter.block.normalize(found)
        if isinstance(result, relax.Tuple):
            results = list(result.fields)
        elif isinstance(result.ty, relax.TupleType):
            results = [relax.TupleGetItem(result, index) for index in range(len(result.ty.fields))]
        else:
            results = [result]
        if len(results) < len(node.outputs):
            raise NotImplementedError("its further outputs are not computed")
        return results[: len(node.outputs)]


def _unshaped(binding: relax.VarBinding | relax.MatchCast) -> str:
    """Return the TVM operator that a binding calls, if TVM would need its unknown shape to make a kernel."""
    call = binding.value
    if not isinstance(call, relax.Call) or not isinstance(call.op, Op) or call.op.get_attr("FDataDependent"):
        return ""
    types = call.ty.fields if isinstance(call.ty, relax.TupleType) else [call.ty]
    is_known = all(not isinstance(held, relax.TensorType) or held.shape is not None for held in types)
    return "" if is_known or call.op.get_attr("FLegalize") is None else call.op.name


def kernels(graph: Graph) -> list[tuple[Node, FusionGroup | None]]:
    """Return what is lowered, in order: single nodes, and the last nodes of groups with their groups."""
    needed = _needed_nodes(graph)
    nodes = [node for node in graph.nodes if node in needed]
    groups = find_groups(graph, nodes, FUSED_KERNELS)
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
    return is_empty(value) or (value.dtype in (DType.int32, DType.int64) and contents(value) is not None)
