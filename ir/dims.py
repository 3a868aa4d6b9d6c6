"""Dimensions: an int, or a text expression over symbols such as `batch` or `(height - 1)//2 + 1`.

The expressions are the ones that torch's symbolic shapes print (sympy in canonical form), so two equal dimensions are
equal strings and need no algebra here. They are read with Python's own parser and evaluated by a walk over a handful of
node kinds, never with `eval`: a graph file is a user's input.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias, TypeVar

Dim: TypeAlias = int | str
T = TypeVar("T")

_MAX_EXPONENT = 8
_LONGEST = 2000
"""Characters of an expression."""
_MOST_TERMS = 1000
"""The most terms that an expression may have once it is multiplied out, as sympy does with it."""
_MAX_BITS = 512


def _power(base: Any, exponent: int) -> Any:
    if not 0 <= exponent <= _MAX_EXPONENT:  # a few digits of a file could ask for more than fits into memory
        raise ValueError(f"a power of {exponent} is no part of a dimension")
    return prod([base] * exponent)  # not every type that counts has powers


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError(f"a number of {value.bit_length()} bits is no part of a dimension")
    return value


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,  # sympy prints an exact quotient such as s/2 with a plain slash
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": max,
    "Min": min,
}


@lru_cache(maxsize=1 << 9)
def _parse(expression: str) -> ast.expr:
    try:
        if len(expression) > _LONGEST:
            raise SyntaxError
        parsed = ast.parse(expression, mode="eval").body
        if _terms(parsed) > _MOST_TERMS:
            raise SyntaxError
    except (SyntaxError, MemoryError, RecursionError, ValueError) as error:  # all but the first: beyond all reason
        raise ValueError(f"{expression[:80]!r} is not a dimension") from error
    return parsed


def _terms(node: ast.expr) -> int:
    """How many terms an expression becomes, at most."""
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _bounded(_terms(left) * _terms(right))
        case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as exponent)):
            return _bounded(_power(_terms(left), exponent))
        case ast.BinOp(op=ast.Pow()):
            raise ValueError("a power of an unknown degree")
        case _:
            return sum(_terms(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)) or 1


@lru_cache(maxsize=1 << 9)
def symbols(dim: Dim) -> frozenset[str]:
    """The symbols in a dimension: `{"batch"}` for `batch*12`, nothing for an int."""
    if isinstance(dim, int):
        return frozenset()
    names = {node.id for node in ast.walk(_parse(dim)) if isinstance(node, ast.Name)}
    return frozenset(names - _CALLS.keys())


def evaluate(dim: Dim, values: Mapping[str, T], calls: Mapping[str, Callable[..., Any]] = _CALLS) -> int | T:
    """The dimension with its symbols bound.

    The values may be of any type with integer arithmetic: ints, torch's symbolic ints, or nodes under construction.

    Raises:
        KeyError: a symbol has no value.
        ValueError: the text is not a dimension.
    """
    if isinstance(dim, int):
        return dim

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as value):
                return value
            case ast.Name(id=name):
                return values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
                return _bounded(_BINARY[type(operation)](walk(left), walk(right)))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in calls:
                return calls[name](*map(walk, arguments))
            case _:
                raise ValueError(f"{dim!r} is not a dimension")

    return walk(_parse(dim))


def is_dim(text: str) -> bool:
    """Whether a text reads as a dimension: false for ONNX's free-form `dim_param` such as `?` or `N x M`."""
    try:
        evaluate(text, dict.fromkeys(symbols(text), 7))
    except (KeyError, ValueError, TypeError, ArithmeticError):  # the third: too few arguments of a call
        return False
    return True
