"""Symbolic sizes as torch's symbolic ints, and torch's expressions as dimensions."""

import ast
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, reduce
from itertools import count
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, statically_known_true

from .dims import Dim, evaluate, is_dim
from .errors import ModelError

# What torch asks about a symbolic size (is it 1? even? larger than that table?) is answered as if it had one of these
# sizes. They are divisible by 16 and unlike the usual widths; should an operator come out fixed to one, or fail, the
# next row is tried: larger sizes for deep pyramids, smaller ones for short tables.
SIZES = ((352, 416, 304, 464, 272, 368, 496), (19392, 19776, 20544, 20928, 21696, 24384), (48, 34, 38, 46, 58, 62))


class Scope:
    """Symbolic ints for a set of symbols, and the way back from torch's expressions to dimensions."""

    def __init__(self, symbols: Sequence[str], sizes: Sequence[int]) -> None:
        self.environment = environment = ShapeEnv(duck_shape=False, specialize_zero_one=False)
        self.mode = FakeTensorMode(shape_env=environment)
        self.mode.cache_enabled = False  # it never forgets a shape, and asking it takes as long as what it would answer
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
    "Max": lambda *sizes: reduce(torch.sym_max, sizes),
    "Min": lambda *sizes: reduce(torch.sym_min, sizes),
}


def expression_dim(expression: sympy.Expr, names: Mapping[sympy.Expr, sympy.Expr]) -> Dim:
    """A sympy expression of torch's symbols as a dimension, with the symbols renamed or replaced.

    Raises:
        ModelError: it is no dimension, such as a size times a fraction.
    """
    renamed = expression.xreplace(dict(names))
    if renamed.is_number:
        return int(str(renamed))
    text = ast.unparse(ast.parse(str(renamed), mode="eval"))  # torch prints brackets in threes
    if not is_dim(text):
        raise ModelError(f"the size {text} is beyond whole-number arithmetic")
    return text


def is_never_negative(size: Any) -> bool:
    """Whether a symbolic integer of torch's is 0 or more whatever its symbols are."""
    return statically_known_true(size >= 0)


_CALLS_OF_SCOPE, _LIFETIME = count(1), 2000
"""A scope learns a little by each question and forgets nothing, so that all are made anew after so many."""


def scope(symbols: tuple[str, ...], attempt: int = 0) -> Scope:
    """The scope of some symbols, shared by everything that has just these."""
    if next(_CALLS_OF_SCOPE) % _LIFETIME == 0:
        _scope.cache_clear()
    return _scope(symbols, attempt)


@lru_cache(maxsize=64)
def _scope(symbols: tuple[str, ...], attempt: int) -> Scope:
    return Scope(symbols, SIZES[attempt])


@contextmanager
def symbols_kept(within: Scope) -> Generator[None]:
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
            _scope.cache_clear()
    if is_spoilt:
        raise ModelError("it fixes a symbolic size, or equates two")
