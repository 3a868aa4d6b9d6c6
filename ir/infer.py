"""Type inference: an operator's own torch function, run on tensors without data.

Static shapes run on meta tensors. Symbolic ones run on fake tensors whose sizes are torch's symbolic ints, and come back
as expressions. What an operator reads on the host (a shape, the bounds of a slice) is followed to where it was made, so
that a `Reshape` by `Concat(Shape(x)[0:1], [-1, 64])` has the type that one expects.
"""

import ast
import difflib
import logging
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from . import shape_values
from .containers import body_inputs, infer_container, join
from .dims import Dim, evaluate, is_dim
from .errors import ModelError
from .graph import Attribute, Constant, Graph, Node, Value
from .ops import Operator, operators
from .ops.dtypes import dtype_of, torch_dtype
from .types import TensorType
from .unranked import infer_unranked

# What torch asks about a symbolic size (is it 1? even? larger than that table?) is answered as if it had one of these
# sizes. They are divisible by 16 and unlike the usual widths; should an operator come out fixed to one, or fail, the next
# row is tried: larger sizes for deep pyramids, smaller ones for short tables.
_SIZES = ((352, 416, 304, 464, 272, 368, 496), (19392, 19776, 20544, 20928, 21696, 24384), (48, 34, 38, 46, 58, 62))


class Scope:
    """Symbolic ints for a set of symbols, and the way back from torch's expressions to dimensions."""

    def __init__(self, symbols: Sequence[str], sizes: Sequence[int]) -> None:
        self.environment = environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
        self.mode = FakeTensorMode(shape_env=environment)
        self.sizes: dict[str, Any] = {}
        self._names: dict[sympy.Expr, sympy.Symbol] = {}
        for index, name in enumerate(symbols):
            hint = sizes[index % len(sizes)] * (1 + index // len(sizes))
            source = ConstantSource(name)
            symbol = environment.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
            self.sizes[name] = environment.create_symintnode(symbol, hint=hint, source=source)
            self._names[symbol] = sympy.Symbol(name, integer=True, positive=True)

    def size(self, dim: Dim) -> Any:
        """A dimension as torch takes it: an int or a symbolic int."""
        return evaluate(dim, self.sizes, _CALLS)

    def dim(self, size: Any) -> Dim:
        """A size that torch gave, as a dimension.

        Raises:
            ModelError: it speaks of a symbol of torch's own, which stands for what only the data tells.
        """
        if isinstance(size, int):
            return size
        if not size.node.expr.free_symbols <= self._names.keys():
            raise ModelError("a size of its result depends on data")
        return expression_dim(size.node.expr, self._names)


_CALLS = {
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
}


def expression_dim(expression: sympy.Expr, names: Mapping[sympy.Expr, sympy.Symbol]) -> Dim:
    """A sympy expression of torch's symbols as a dimension, with the symbols renamed.

    Raises:
        ModelError: it is no dimension, such as a size times a fraction.
    """
    if expression.is_number:
        return int(expression)
    text = ast.unparse(ast.parse(str(expression.xreplace(dict(names))), mode="eval"))  # torch prints brackets in threes
    if not is_dim(text):
        raise ModelError(f"the size {text} is beyond whole-number arithmetic")
    return text


@lru_cache(maxsize=64)
def scope(symbols: tuple[str, ...], attempt: int = 0) -> Scope:
    """The scope of some symbols, shared by everything that has just these."""
    return Scope(symbols, _SIZES[attempt])


def find_operator(name: str) -> Operator:
    """The operator of a name.

    Raises:
        ModelError: nobody knows it; the nearest name is suggested.
    """
    known = operators()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ModelError(f"unknown operator {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return known[name]


def infer(
    operator: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], outputs: int = 1
) -> list[TensorType]:
    """The types of a node's outputs.

    Raises:
        ModelError: the operator is unknown, or its inputs don't fit together.
    """
    definition = find_operator(operator)
    types = infer_container(operator, inputs, attributes, outputs)
    if types is not None:
        return types
    if not all(value is None or value.type.is_ranked for value in inputs):
        return infer_unranked(operator, inputs, attributes, outputs)
    inference = _Inference(definition, inputs)
    reason: Exception | None = None
    for attempt in range(len(_SIZES) if inference.symbols else 1):
        try:
            return inference.run(attributes, outputs, attempt)
        except Exception as error:
            reason = reason or error
    types = ", ".join("none" if value is None else str(value.type) for value in inputs)
    raise ModelError(f"{operator}({types}) can't be applied: {str(reason).strip().splitlines()[0]}") from reason


def contents(value: Value) -> tuple[Dim, ...] | None:
    """The elements of a small integer tensor, where they are known: ints and symbolic dimensions, in one row."""
    if value.dtype.is_float:
        return None
    within = scope(tuple(sorted(shape_values.symbols(value))))
    with _unspoilt(within):
        elements = shape_values.elements(value, within.size)
    return None if elements is None else tuple(within.dim(element) for element in elements.reshape(-1))


def refresh(graph: Graph) -> None:
    """Infer every node's output types anew, in order: what a pass calls after it changed a weight's shape.

    Raises:
        ModelError: naming the layer whose inputs no longer fit.
    """
    for node in graph.nodes:
        for inner in node.graphs:
            _refresh_inner(node, inner)
        try:
            types = infer(node.operator, node.inputs, node.attributes, len(node.outputs))
        except ModelError as error:
            raise ModelError(f"{node.location}: {error}") from error
        for output, type in zip(node.outputs, types, strict=True):
            output.type = type


def _refresh_inner(node: Node, inner: Graph) -> None:
    """Infer anew what is in a graph inside a node, whose inputs may have other types by now."""
    for value, type in zip(inner.inputs, body_inputs(node.operator, node.inputs, node.attributes), strict=True):
        value.type = join(value.type, type, value.name)
    refresh(inner)


@contextmanager
def _unspoilt(within: Scope) -> Generator[None]:
    """See that what runs inside leaves the symbols of a scope free.

    Fake tensors log every shape that doesn't fit, with a trace; it comes back as our own error instead.

    Raises:
        ModelError: a symbol became a number or another symbol, which it would be in every later inference too.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
        is_spoilt = bool(within.environment.replacements)
        if is_spoilt:
            scope.cache_clear()
    if is_spoilt:
        raise ModelError("it fixes a symbolic size, or equates two")


class _Inference:
    """One application of an operator to values of which only types are known."""

    def __init__(self, definition: Operator, inputs: Sequence[Value | None]) -> None:
        self.definition = definition
        self.inputs = inputs
        self.symbols: set[str] = set()
        for index, value in enumerate(inputs):
            if value is not None:
                self.symbols |= value.type.symbols
            if value is not None and index in definition.host:
                self.symbols |= shape_values.symbols(value)
                self.symbols |= self._unknown(value)

    def run(self, attributes: Mapping[str, Attribute], outputs: int, attempt: int) -> list[TensorType]:
        within = scope(tuple(sorted(self.symbols)), attempt)
        keywords = call_attributes(self.definition, self.inputs, attributes, outputs)
        with _unspoilt(within), within.mode if self.symbols else torch.device("meta"), torch.no_grad():
            arguments = [self._argument(within, index, value) for index, value in enumerate(self.inputs)]
            results = self.definition.function(*arguments, **keywords)
        results = results if isinstance(results, tuple) else (results,)
        return [
            TensorType(dtype_of(result.dtype), tuple(within.dim(size) for size in result.shape))
            for result in results[:outputs]
        ]

    def _argument(self, within: Scope, index: int, value: Value | None) -> Any:
        if value is None:
            return None
        if index not in self.definition.host:
            return torch.empty([within.size(dim) for dim in value.shape], dtype=torch_dtype(value.dtype))
        if isinstance(value, Constant):
            return value.data.reshape(-1).tolist()
        elements = shape_values.elements(value, within.size)
        if elements is not None:
            return list(elements.reshape(-1))
        return [within.sizes[name] for name in self._names(value)]

    def _unknown(self, value: Value) -> set[str]:
        """Fresh symbols for the elements of a shape that is computed from data."""
        if isinstance(value, Constant):
            return set()
        known = shape_values.elements(value, scope(tuple(sorted(shape_values.symbols(value)))).size)
        return set(self._names(value)) if known is None else set()

    def _names(self, value: Value) -> list[str]:
        if self.definition.name not in ("Reshape", "Expand", "ConstantOfShape"):
            raise ModelError(
                f"{self.definition.name} needs %{value.name} at compile time, but it is computed from data"
            )
        name = re.sub(r"\W", "_", value.name)
        count = value.type.static_shape[0] if value.type.rank else 1
        return [f"{name if name[0].isalpha() else f'd{name}'}_{index}" for index in range(count)]


def call_attributes(
    definition: Operator, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], outputs: int
) -> dict[str, Any]:
    """The keyword arguments with which an operator's function is called for a node."""
    keywords: dict[str, Any] = dict(attributes)
    if definition.takes_outputs:
        keywords["outputs"] = outputs
    if definition.takes_dtype and inputs[0] is not None:
        keywords["input_dtype"] = torch_dtype(inputs[0].dtype)
    return keywords
