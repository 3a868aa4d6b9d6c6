"""What converters write Relax with: tensors for the graph's values, sizes for its dimensions, and calls of kernels."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GlobalVar
from tvm.runtime import Tensor
from tvm.sym import Analyzer

from ....ir.contents import contents
from ....ir.dims import Dim, evaluate, symbols
from ....ir.errors import TargetError
from ....ir.graph import Constant, Graph, Node, Value
from ....ir.types import DType, TensorType
from ..kernels.machine import Machine
from ..kernels.vectors import Scalar, known
from ..runtime.packing import Form, packed
from ..runtime.storage import carried, carrier
from ..runtime.weights import PlainWeights
from .configs import TuningPolicy

_CALLS = {
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": tirx.max,
    "Min": tirx.min,
}


class Emitter:
    """The function that is being emitted, and what stands in it for the values of a graph.

    Attributes:
        block: TVM's builder, which converters emit into.
        given: the symbols of the inputs' shapes.
        machine: the machine that kernels are generated for.
        choices: the choices of how kernels are generated.
        blocked: tensors in blocks of channels, by the values that are held so (`layouts`).
        packed: weights as kernels read them, by what they are packed from and how.
        plain: what constants are packed from when they are loaded, and how.
    """

    def __init__(self, graph: Graph, machine: Machine, choices: TuningPolicy) -> None:
        self.block = relax.BlockBuilder()
        self.given = frozenset[str]().union(*(value.type.symbols for value in graph.inputs))
        self.machine = machine
        self.choices = choices
        self.blocked: dict[Value, relax.Expr] = {}
        self.packed: dict[Hashable, list[relax.Expr]] = {}
        self.plain: dict[Tensor, PlainWeights] = {}
        self._sizes: dict[str, tirx.Expr] = {}
        self._new = count()
        self._values: dict[Value, relax.Expr] = {}
        self._deferred: dict[Value, Callable[[], relax.Expr]] = {}
        self._kernels: dict[tirx.PrimFunc, GlobalVar] = {}
        self._analyzer = Analyzer()
        for dim in (dim for value in graph.inputs for dim in value.shape):
            self._bind(dim)

    def __contains__(self, value: Value | None) -> bool:
        """Whether something stands for a value by now."""
        return value in self._values or value in self._deferred

    def size(self, dim: Dim) -> Scalar:
        """Return a dimension as TVM takes it: an int, or an expression over its variables."""
        try:
            return evaluate(dim, self._sizes, _CALLS)
        except KeyError as error:
            raise NotImplementedError(f"the size {dim} depends on data in a way that isn't followed") from error

    def shape(self, dims: Sequence[Dim]) -> relax.ShapeExpr:
        """Return dimensions as a Relax shape."""
        return relax.ShapeExpr([self.size(dim) for dim in dims])

    def symbol(self, label: str) -> str:
        """Return a new symbol, for a size that only the lowering knows of."""
        return f"{label}__{next(self._new)}"

    def is_bound(self, dim: Dim) -> bool:
        """Whether a dimension's symbols have their values at this point."""
        return symbols(dim) <= self._sizes.keys()

    def computed(self, sizes: relax.Expr, dims: Sequence[Dim]) -> relax.ShapeExpr:
        """Bind dimensions to sizes that are computed while the model runs, and return them as a Relax shape.

        Args:
            sizes: a row of int64 with a size for each dimension, and perhaps further ones behind them that must be 0.
            dims: the dimensions that have these sizes; where they are known already, a check at run time compares them.
        """
        for dim in dims:
            self._bind(dim)
        shape = self.shape(dims)
        found = self.block.emit(relax.op.tensor_to_shape(self.block.emit(sizes)))
        zeros = [tirx.const(0, "int64")] * (known(shape_of(sizes)[0]) - len(dims))
        self.block.match_cast(found, relax.ShapeType([*shape.values, *zeros]))
        return shape

    def tensor(self, value: Value) -> relax.Expr:
        """Return a value as a Relax tensor; shapes that were followed symbolically become tensors here."""
        if value not in self._values:
            if is_empty(value):  # as a constant it couldn't be read back from a file
                zeros = relax.op.zeros(value.type.static_shape, str(carrier(value.dtype)))
                self._values[value] = self.block.emit(zeros)
            elif isinstance(value, Constant):
                self._values[value] = relax.const(carried(value.data), str(carrier(value.dtype)))
            elif value in self._deferred:
                self._values[value] = self.block.emit(self._deferred[value]())
            else:
                self._values[value] = self._materialized(value)
        return self._values[value]

    def tensors(self, node: Node) -> list[relax.Expr]:
        """Return a node's inputs as Relax tensors, without those that are missing."""
        return [self.tensor(value) for value in node.inputs if value is not None]

    def bind(self, value: Value, tensor: relax.Expr) -> None:
        """Let a tensor stand for a value."""
        self._values[value] = tensor

    def defer(self, value: Value, make: Callable[[], relax.Expr]) -> None:
        """Let what a function makes stand for a value, once it is asked for."""
        self._deferred[value] = make

    def bound(self, value: Value) -> relax.Expr | None:
        """Return the tensor that stands for a value, if there is one already."""
        return self._values.get(value)

    def parameter(self, index: int, value: Value) -> relax.Var:
        """Return a variable that stands for an input.

        Raises:
            TargetError: its shape has symbols that are no dimension of any input alone.
        """
        if unbound := value.type.symbols - self._sizes.keys():
            raise TargetError(f"input {value.name!r}: TVM needs {', '.join(unbound)} as a dimension of its own")
        held = relax.TensorType(self.shape(value.shape), str(carrier(value.dtype)))
        self._values[value] = variable = relax.Var(f"input_{index}", held)
        return variable

    def shaped(self, value: Value, shape: Sequence[Dim]) -> relax.Expr:
        """Return a value as a Relax tensor of another shape with as many elements."""
        if tuple(shape) == value.shape:
            return self.tensor(value)
        sizes = [dim for dim in shape if isinstance(dim, int)]
        if isinstance(value, Constant) and len(sizes) == len(shape):
            return relax.const(value.data.reshape(sizes), str(value.dtype))
        return self.block.emit(self.reshaped(self.tensor(value), self.shape(shape)))

    def reshaped(self, tensor: relax.Expr, shape: relax.ShapeExpr) -> relax.Expr:
        """Return a tensor in another shape with as many elements; nothing is copied.

        Where sizes behind the first aren't known, TVM can't prove that the order stays, and would make a kernel that
        divides for each element.
        """
        tensor = self.block.normalize(tensor)
        if all(isinstance(size, tirx.IntImm) for size in (*shape_of(tensor).values[1:], *shape.values[1:])):
            return relax.op.reshape(tensor, shape)
        return relax.op.memory.view(tensor, shape)

    def kernel(
        self, function: Callable[..., te.Tensor | Sequence[te.Tensor]], *arguments: relax.Expr, **sizes: object
    ) -> relax.Call:
        """Call a kernel that is given as a function from TVM's tensors to a tensor; the arguments are Relax's.

        TVM gives a kernel symbols of its own, so that numbers computed with sizes must be passed by name: as an
        expression, or a row of them.
        """
        name = getattr(function, "func", function).__name__.strip("_")
        tensors = [self.block.normalize(argument) for argument in arguments]
        return self.block.call_te(function, *tensors, **sizes, primfunc_name_hint=name)

    def packed_constant(self, plain: np.ndarray, form: Form) -> relax.Expr:
        """Return weights in a form as a constant that is stored plain."""
        constant = relax.const(packed(plain, form))
        self.plain[constant.value] = PlainWeights(plain, form)
        return constant

    def prim_func(
        self, name: str, function: tirx.PrimFunc, arguments: Sequence[relax.Expr], *types: TensorType
    ) -> relax.Call:
        """Call a kernel in TIR, which takes the arguments and, behind them, results of the given types.

        The sizes of its buffers may be variables of its own, which it reads from its arguments. The module gets one of
        equal functions.
        """
        if (kernel := self._kernels.get(function)) is None:  # TVM would compare it with all others each time
            kernel = self._kernels[function] = self.block.add_func(function, name)
        results = [relax.TensorType(self.shape(type.shape), str(carrier(type.dtype))) for type in types]
        given = [self.block.normalize(argument) for argument in arguments]
        return relax.call_tir(kernel, given, results if len(results) > 1 else results[0])

    def typed(self, expression: relax.Expr, type: TensorType) -> relax.Expr:
        """Bind an expression to a variable of the given type."""
        expression = self.block.emit(expression)
        found = expression.ty
        if not isinstance(found, relax.TensorType) or str(found.dtype) != str(carrier(type.dtype)):
            raise TypeError(f"it gives {found} where {type} is expected")
        for dim in type.shape:
            self._bind(dim)  # a size that depends on data gets its value from the cast below
        return self.held(expression, type)

    def held(self, expression: relax.Expr, type: TensorType) -> relax.Expr:
        """Give an expression the shape that it must have; it is checked at run time where TVM can't prove it."""
        shape = self.shape(type.shape)
        if self._same(type_of(expression).shape, shape):
            return expression
        return self.block.match_cast(expression, relax.TensorType(shape, str(carrier(type.dtype))))

    def _bind(self, dim: Dim) -> None:
        if isinstance(dim, str) and dim.isidentifier():
            self._sizes.setdefault(dim, tirx.Var(dim, "int64"))

    def _same(self, found: relax.Expr | None, shape: relax.ShapeExpr) -> bool:
        if not isinstance(found, relax.ShapeExpr) or len(found.values) != len(shape.values):
            return False
        return all(self._analyzer.can_prove_equal(a, b) for a, b in zip(found.values, shape.values, strict=True))

    def _materialized(self, value: Value) -> relax.Expr:
        """Make a small integer tensor from its symbolic elements."""
        elements = contents(value)
        if not elements:
            raise TargetError(f"TVM can't hold %{value.name}: {value.type}")
        if not all(map(self.is_bound, elements)):
            raise TargetError(f"TVM can't hold %{value.name}: it depends on data in a way that isn't followed")
        row = relax.op.shape_to_tensor(self.shape(elements))
        row = self.block.emit(relax.op.reshape(row, self.shape(value.shape)))
        return self.typed(row if value.dtype is DType.int64 else relax.op.astype(row, str(value.dtype)), value.type)


@dataclass(frozen=True, slots=True)
class Blocked:
    """The result of a converter in blocks of channels."""

    tensor: relax.Expr


Converter: TypeAlias = Callable[[Emitter, Node], relax.Expr | Blocked]
"""A function that writes a node in Relax."""


def type_of(tensor: relax.Expr) -> relax.TensorType:
    """Return a tensor's type as TVM knows it."""
    assert isinstance(tensor.ty, relax.TensorType)
    return tensor.ty


def shape_of(tensor: relax.Expr) -> relax.ShapeExpr:
    """Return a tensor's shape as TVM knows it."""
    shape = type_of(tensor).shape
    assert isinstance(shape, relax.ShapeExpr)
    return shape


def known_size(dim: Dim) -> int | None:
    """Return a dimension as kernels take it: its size, or None where it isn't known."""
    return dim if isinstance(dim, int) else None


def known_sizes(dims: Sequence[Dim]) -> tuple[int | None, ...]:
    """Return dimensions as kernels take them: their sizes, with None for those that aren't known."""
    return tuple(map(known_size, dims))


def input_contents(node: Node, index: int) -> tuple[Dim, ...] | None:
    """Return the elements of a node's small integer input; None where it is missing, or only data tells them."""
    value = node.input(index)
    return None if value is None else contents(value)


def is_empty(value: Value) -> bool:
    """Whether a value certainly has no elements."""
    return value.type.is_static and 0 in value.shape
