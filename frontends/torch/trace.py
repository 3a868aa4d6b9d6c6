"""From a module to a graph: export, decompose what the table lacks, then lower node by node."""

import operator as python
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import InputKind, InputSpec
from torch.utils import _pytree as pytree

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.finite import check_finite
from ...ir.graph import Graph, Location, Value
from ...ir.infer import expression_dim
from ...ir.ops.dtypes import dtype_of, to_numpy
from ...ir.types import TensorType
from .lowering import Lowering
from .table import LOWERINGS

_IGNORED = frozenset(
    {
        "aten._assert_tensor_metadata.default",
        "aten._assert_scalar.default",
        "aten.sym_constrain_range_for_size.default",
        "aten.sym_constrain_range.default",
    }
)
_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def trace(
    module: nn.Module,
    arguments: Sequence[Any] = (),
    keywords: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> Graph:
    """Trace a module into a graph.

    Args:
        module: in evaluation mode; what is in training mode is switched for the duration of the trace.
        arguments: example inputs, tensors of the shapes that the graph will take.
        keywords: example inputs by name.
        dynamic_shapes: which dimensions stay symbolic, as `torch.export.export` takes it.

    Raises:
        ModelError: `torch.export` refuses the module, or it uses an operator that has no counterpart.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.export(
                module, tuple(arguments), dict(keywords or {}), dynamic_shapes=dynamic_shapes, strict=False
            )
    except Exception as error:  # export raises whatever the module's own code raises on symbolic inputs
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ModelError(
            f"torch.export refuses {type(module).__name__}: {reason}\n"
            "Make its forward free of data-dependent Python control flow, or export it to ONNX and give that"
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training
    return convert(program, type(module).__name__, _symbol_names(program, dynamic_shapes))


def read_pt2(path: Path) -> Graph:
    """Read a `torch.export` archive.

    Raises:
        ModelError: the file is missing or broken.
    """
    try:
        program = torch.export.load(path)
    except Exception as error:  # a broken archive raises from zip, json, or torch alike
        raise ModelError(f"{path} is not a torch.export archive that can be read: {error}") from error
    return convert(program, path.stem, {})


def convert(program: ExportedProgram, name: str, symbol_names: Mapping[str, str]) -> Graph:
    """An exported program as a graph.

    Raises:
        ModelError: an operator has no counterpart, naming it and its module.
    """
    table = default_decompositions()
    for overload in [overload for overload in table if str(overload) in LOWERINGS]:
        del table[overload]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program.run_decompositions(table)
    return _Conversion(program, name, symbol_names).run()


class _Conversion:
    """One exported program on its way to a graph."""

    def __init__(self, program: ExportedProgram, name: str, symbol_names: Mapping[str, str]) -> None:
        self.program = program
        self.graph = Graph(name)
        self.values: dict[fx.Node, Any] = {}
        self._symbols: dict[sympy.Expr, sympy.Symbol] = {
            sympy.Symbol(symbol, integer=True, positive=True): sympy.Symbol(wanted, integer=True, positive=True)
            for symbol, wanted in symbol_names.items()
        }
        self._constants: dict[tuple[Any, ...], Value] = {}

    def run(self) -> Graph:
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, specs[node.name])
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._return(node)
            else:
                raise ModelError(f"{_location(node)}: fx node {node.op} has no counterpart")
        check_finite(self.graph)
        return self.graph

    def _placeholder(self, node: fx.Node, spec: InputSpec) -> None:
        if spec.kind in _WEIGHTS and spec.target is not None:
            self.values[node] = self._weight(spec.target)
        elif spec.kind is InputKind.USER_INPUT:
            meta = node.meta.get("val")
            is_tensor = isinstance(meta, torch.Tensor)
            self.values[node] = self.graph.add_input(node.name, self._type(meta)) if is_tensor else meta
        else:
            raise ModelError(f"input {node.name!r} of kind {spec.kind.name} is not supported")

    def _weight(self, target: str) -> Value:
        """The constant of a parameter or buffer; tensors that share storage and layout are one constant."""
        state = self.program.state_dict
        tensor = state[target] if target in state else self.program.constants[target]
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"constant {target!r} is a {type(tensor).__name__}, not a tensor")
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._constants or tensor.numel() == 0:
            self._constants[key] = self.graph.add_constant(to_numpy(tensor.detach().contiguous()), target)
        return self._constants[key]

    def _call(self, node: fx.Node) -> None:
        name = str(node.target)
        value = node.meta.get("val")
        if name in _IGNORED or node.target is torch.ops.aten.sym_size.int:
            return
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool):
            return  # sizes are read off the types where they are used
        if node.target is python.getitem:
            source, index = node.args
            self.values[node] = self.values[source][index]  # pyright: ignore[reportArgumentType] -- fx's own invariant
            return
        if name not in LOWERINGS:
            raise ModelError(
                f"{_location(node)}: {name} has no counterpart among the operators; "
                "replace it in the model, or give the model as ONNX"
            )
        arguments = pytree.tree_map(self._argument, node.args)
        keywords = pytree.tree_map(self._argument, dict(node.kwargs))
        op = Lowering(self.graph, node, _location(node), self._dim)
        self.values[node] = LOWERINGS[name](op, *arguments, **keywords)

    def _argument(self, argument: Any) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self.values:
            return self.values[argument]
        value = argument.meta["val"]
        return self._dim(value) if isinstance(value, torch.SymInt) else value

    def _return(self, node: fx.Node) -> None:
        results, _ = pytree.tree_flatten(node.args[0])
        specs = self.program.graph_signature.output_specs
        for result, spec in zip(results, specs, strict=True):
            value = self.values.get(result) if isinstance(result, fx.Node) else None
            if spec.kind.name != "USER_OUTPUT" or value is None:
                continue
            count = len(self.graph.outputs)
            self.graph.outputs["output" if count == 0 else f"output_{count}"] = value

    def _type(self, tensor: torch.Tensor) -> TensorType:
        return TensorType(dtype_of(tensor.dtype), tuple(self._dim(size) for size in tensor.shape))

    def _dim(self, size: int | torch.SymInt) -> Dim:
        return size if isinstance(size, int) else expression_dim(size.node.expr, self._symbols)


def _location(node: fx.Node) -> Location:
    """The innermost module of the user's that a node came from, and the line of its code."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next((str(entry[0]) for entry in reversed(stack.values())), "")
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    frames = [frame for frame in frames if "/torch/" not in frame[0]] or frames
    source = f"{Path(frames[-1][0]).name}:{frames[-1][1]}" if frames else ""
    return Location(re.sub(r"^L__self___?", "", path), source)


def _symbol_names(program: ExportedProgram, dynamic_shapes: Any) -> dict[str, str]:
    """The user's names (`Dim("batch")`) of the symbols that torch made up, read off the inputs' shapes."""
    if dynamic_shapes is None:
        return {}
    names: dict[str, str] = {}
    inputs = [
        node
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    specs = _flat_specs(dynamic_shapes)
    for node, spec in zip(inputs, specs, strict=False):
        for axis, dim in _axes(spec):
            size = node.meta["val"].shape[axis]
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                names.setdefault(str(size.node.expr), getattr(dim, "__name__", None) or f"{node.name}_{axis}")
    return names


def _flat_specs(dynamic_shapes: Any) -> list[Any]:
    """One specification for each tensor: torch nests them as the arguments are nested."""
    if isinstance(dynamic_shapes, Mapping) and not any(isinstance(key, int) for key in dynamic_shapes):
        return [spec for value in dynamic_shapes.values() for spec in _flat_specs(value)]
    is_row = isinstance(dynamic_shapes, tuple | list)
    if is_row and any(isinstance(item, Mapping | tuple | list) for item in dynamic_shapes):
        return [spec for value in dynamic_shapes for spec in _flat_specs(value)]
    return [dynamic_shapes]


def _axes(spec: Any) -> list[tuple[int, Any]]:
    if isinstance(spec, Mapping):
        return [(axis, dim) for axis, dim in spec.items() if dim is not None]
    if isinstance(spec, tuple | list):
        return [(axis, dim) for axis, dim in enumerate(spec) if dim is not None]
    return []
