"""Turn a module into a graph: export, decompose what the table lacks, then lower node by node."""

import operator as python
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import InputKind, InputSpec, OutputKind
from torch.utils import _pytree as pytree

from ...ir.errors import ModelError
from ...ir.finite import check_finite
from ...ir.graph import Graph, Location
from ...ir.ops.dtypes import dtype_of, to_numpy, torch_dtype
from ...ir.types import DType, TensorType
from .archive import load_program
from .call import call_of, dim_name
from .compat_torch import TORCH
from .complexes import Complex, join, split
from .dispatch import lower
from .export import ONE_AT_A_TIME, decompose, export
from .higher_order import lower_higher_order
from .inplace import functional_name, is_training, names_of, show_dropout, writes, writes_unseen
from .lowering import Lowering
from .results import result_names
from .sizes import Sizes
from .table import LOWERINGS

_IGNORED = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten.sym_constrain_range_for_size.default",
        "aten.sym_constrain_range.default",
        "aten._linalg_check_errors.default",
    }
)
"""Checks of what the example inputs, or any, may be."""
_ITEMS = ("aten._local_scalar_dense.default", "aten.item.default")
_SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)
"""What fx nodes may stand for beside tensors."""
_ELEMENTS = {torch_dtype(dtype) for dtype in DType if dtype is not DType.string}
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def trace(
    module: nn.Module,
    arguments: Any = (),
    keywords: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Graph:
    """Trace a module into a graph.

    The graph returns the tensors that the module returns, in order, also those that nested containers and objects such
    as caches hold; numbers and texts among them are left out. Keys of a dict and fields of a dataclass, a named tuple
    or a `ModelOutput` are the outputs' names; others are `output`, `output_1` and so on.

    Args:
        module: the module; what of it is in training mode is switched to evaluation for the duration of the trace.
        arguments: example inputs, tensors or arrays of the shapes that the graph will take: in a row, a lone one, or
            by name in a dict.
        keywords: further example inputs by name.
        dynamic_shapes: which dimensions stay symbolic, as `torch.export.export` takes it; for a lone input, the entry
            of that input alone will do, as in `{0: Dim("batch")}`; names of parameters that aren't passed are ignored.

    Raises:
        ModelError: the module fails on the inputs, `torch.export` refuses it, or it uses an operator that has no
            counterpart.
    """
    call = call_of(module, arguments, keywords, dynamic_shapes)
    specifications = call.specifications()
    program, names = export(call)
    return convert(program, call.name, specifications, names)


def read_pt2(path: Path) -> Graph:
    """Read a `torch.export` archive.

    Raises:
        ModelError: the file is missing or broken, or holds what would be run to read it.
    """
    program = load_program(path)
    try:
        return convert(program, path.stem, (), result_names(program))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def convert(program: ExportedProgram, name: str, specifications: Sequence[Any], results: Sequence[str]) -> Graph:
    """An exported program as a graph.

    Args:
        program: the program, of any dialect that `run_decompositions` takes.
        name: the graph's name.
        specifications: the specification of each input's dynamic dimensions, which gives them their names.
        results: the names of what the program returns; empty ones are made up.

    Raises:
        ModelError: an operator has no counterpart; it is named, with its module.
    """
    with ONE_AT_A_TIME:
        symbol_names = _symbol_names(program, specifications)
        show_dropout(program.graph)
        if not _is_lowerable(program.graph):
            program = decompose(program, name, _decompositions())
        _erase_idle(program.graph)
        graph = Graph(name)
        return _Conversion(program, graph, Sizes(graph, symbol_names), results).run()


def _erase_idle(graph: fx.Graph) -> None:
    """Take out what only asserts, and what nobody reads."""
    for node in reversed(graph.nodes):
        is_idle = str(node.target) in _IGNORED or not (node.users or writes(node))
        if node.op == "call_function" and is_idle:
            graph.erase_node(node)


def _is_lowerable(graph: fx.Graph) -> bool:
    """Whether every node has a lowering as it is, so that the program need not be taken apart."""
    return all(map(_has_lowering, graph.nodes)) and writes_unseen(graph)


def _has_lowering(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and value.is_complex():
        return False
    if node.op != "call_function" or isinstance(value, _SIZES) or node.target is python.getitem:
        return node.op != "get_attr"  # of a graph inside the node, which is not taken apart yet
    name = functional_name(node)
    return name in _IGNORED or (name in LOWERINGS and not is_training(node))


@cache
def _decompositions() -> dict[Any, Any]:
    """What torch takes apart, without what has a lowering as it is; made once, since that takes a tenth of a second."""
    table = default_decompositions()
    return {overload: rule for overload, rule in table.items() if str(overload) not in LOWERINGS}


class _Conversion:
    """One exported program on its way to a graph."""

    def __init__(self, program: ExportedProgram, graph: Graph, sizes: Sizes, results: Sequence[str] = ()) -> None:
        self.program = program
        self.results = results
        self.graph = graph
        self.values: dict[fx.Node, Any] = {}
        self.sizes = sizes
        self._constants: dict[tuple[Any, ...], Any] = {}

    def run(self) -> Graph:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, specs[node.name])
            elif node.op == "output":
                self._return(node)
            else:
                self._node(node)
        check_finite(self.graph)
        return self.graph

    def _inline(self, module: fx.GraphModule, graph: Graph, arguments: Sequence[Any]) -> list[Any]:
        """Lower the nodes of a function that an operator takes; gives what it returns."""
        sizes = self.sizes if graph is self.graph else Sizes(graph, {}, self.sizes)
        part = _Conversion(self.program, graph, sizes)
        given = iter(arguments)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                part.values[node] = next(given)
            elif node.op == "output":
                return list(pytree.tree_leaves(pytree.tree_map(part._argument, node.args[0])))
            else:
                part._node(node)
        raise ModelError("a function in the program returns nothing")

    def _node(self, node: fx.Node) -> None:
        if node.op == "call_function":
            self._call(node)
        elif node.op == "get_attr":  # a function that an operator takes
            self.values[node] = getattr(node.graph.owning_module, str(node.target))
        else:
            raise ModelError(f"{_location(node)}: fx node {node.op} has no counterpart")

    def _placeholder(self, node: fx.Node, spec: InputSpec) -> None:
        if spec.kind in _WEIGHTS and spec.target is not None:
            self.values[node] = self._weight(spec.target)
        elif spec.kind is InputKind.USER_INPUT:
            meta = node.meta.get("val")
            is_tensor = isinstance(meta, torch.Tensor)
            self.values[node] = self._input(node, meta) if is_tensor else meta
        elif spec.kind is not InputKind.TOKEN:  # which orders what has effects, and so nothing here
            raise ModelError(f"input {node.name!r} of kind {spec.kind.name} is not supported")

    def _input(self, node: fx.Node, tensor: torch.Tensor) -> Any:
        value = self.graph.add_input(node.name, self._type(tensor))
        self.sizes.see(tensor, value)
        return split(Lowering(self.graph, node, _location(node), self.sizes), value)

    def _weight(self, target: str) -> Any:
        """The constant of a parameter or buffer; tensors that share storage and layout are one constant."""
        state = self.program.state_dict
        tensor = state[target] if target in state else self.program.constants[target]
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"constant {target!r} is a {type(tensor).__name__}, not a tensor")
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._constants or tensor.numel() == 0:
            self._constants[key] = self._constant(tensor.detach(), target)
        return self._constants[key]

    def _constant(self, tensor: torch.Tensor, name: str) -> Any:
        if not tensor.is_complex():
            return self.graph.add_constant(to_numpy(tensor), name)
        parts = torch.view_as_real(tensor.resolve_conj()).unbind(-1)
        names = (f"{name}.real", f"{name}.imag")
        return Complex(*map(self._constant, (part.contiguous() for part in parts), names))

    def _call(self, node: fx.Node) -> None:
        name = functional_name(node)
        value = node.meta.get("val")
        if name in _IGNORED:
            return
        if node.target is torch.ops.higher_order.with_effects and str(node.args[1]) in _IGNORED:
            self.values[node] = (None,)
            return
        if name in _ITEMS:
            self._item(node)
            return
        if isinstance(value, _SIZES):
            return  # sizes are read off the types where they are used
        if node.target is python.getitem:
            source, index = node.args
            self.values[node] = self.values[source][index]  # pyright: ignore[reportArgumentType] -- fx's own invariant
            return
        arguments = pytree.tree_map(self._argument, node.args)
        keywords = pytree.tree_map(self._argument, dict(node.kwargs))
        op = Lowering(self.graph, node, _location(node), self.sizes)
        if not isinstance(node.target, OpOverload):
            self.values[node] = lower_higher_order(op, name, arguments, self._inline)
            self.sizes.see(value, self.values[node])
            return
        result = lower(op, name, arguments, keywords)
        if writes(node):
            result = op.cast(result)
        self.values.update(dict.fromkeys(names_of(node), result))

    def _item(self, node: fx.Node) -> None:
        """A number in a tensor: it may be an operand, and a whole one a size too."""
        number, tensor = node.meta["val"], self._argument(node.args[0])
        if isinstance(number, torch.SymInt):
            self.sizes.see_number(number, tensor)
        else:
            self.values[node] = tensor

    def _argument(self, argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self.values:
            return self._known(argument)
        value = argument.meta["val"]
        if isinstance(value, torch.SymFloat | torch.SymBool):
            raise ModelError(
                f"{_location(argument)}: arithmetic on a symbolic size beyond whole numbers is not supported"
            )
        return self.sizes.dim(value) if isinstance(value, torch.SymInt) else value

    def _known(self, node: fx.Node) -> Any:
        value = self.values[node]
        if (
            value is None and node.op == "call_function"
        ):  # a lowering gives None for what ONNX's operator doesn't return
            raise ModelError(f"{_location(node)}: result {node.args[1]} of {node.args[0]} has no counterpart")
        return value

    def _return(self, node: fx.Node) -> None:
        results, _ = pytree.tree_flatten(node.args[0])
        specs = self.program.graph_signature.output_specs
        names = iter(self.results)
        for result, spec in zip(results, specs, strict=True):
            name = next(names, "") if spec.kind is OutputKind.USER_OUTPUT else ""
            if spec.kind is OutputKind.TOKEN:
                continue
            if spec.kind is OutputKind.BUFFER_MUTATION and self.values[result] is self._weight(str(spec.target)):
                continue  # it is set to what it was
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise ModelError(
                    f"the model changes {spec.target or result!r} while it runs, which a graph can't express"
                )
            if not isinstance(result, fx.Node) or not isinstance(result.meta.get("val"), torch.Tensor):
                continue  # a number or a size: what a graph returns is the tensors
            op = Lowering(self.graph, result, _location(result), self.sizes)
            self.graph.outputs[self._output_name(name)] = join(op, self._known(result))
        if not self.graph.outputs:
            raise ModelError("the model returns no tensor")

    def _output_name(self, wished: str) -> str:
        """A name that no input and no other output has."""
        taken = {*self.graph.outputs, *(value.name for value in self.graph.inputs)}
        stem, number = re.sub(r"\W+", "_", wished) or "output", 0 if wished else len(self.graph.outputs)
        name = f"{stem}_{number}" if number else stem
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        return name

    def _type(self, tensor: torch.Tensor) -> TensorType:
        if tensor.dtype not in _ELEMENTS:
            raise ModelError(
                f"the model takes a tensor of {tensor.dtype}, which has no counterpart among element types"
            )
        return TensorType(dtype_of(tensor.dtype), tuple(map(self.sizes.dim, tensor.shape)))


def _location(node: fx.Node) -> Location:
    """The innermost module of the user's that a node came from, and the line of its code."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(entry[0]) for entry in reversed(stack.values())), "")
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    frames = [frame for frame in frames if not frame[0].startswith(TORCH)] or frames
    source = f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""
    return Location(re.sub(r"^L__self___?", "", path), source)


def _symbol_names(program: ExportedProgram, specifications: Sequence[Any]) -> dict[str, str]:
    """Names for torch's symbols: the user's (`Dim("batch")`), or the input and axis where each first occurs."""
    names: dict[str, str] = {}
    inputs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    nodes = {node.name: node for node in program.graph.nodes}
    for spec, said in zip_longest(inputs, specifications):
        name = getattr(spec.arg, "name", None)
        value = nodes[name].meta.get("val") if name in nodes else None
        for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                names.setdefault(str(size.node.expr), dim_name(said, axis) or f"{name}_{axis}")
    return names
