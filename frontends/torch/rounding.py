"""Sizes that torch computes by floats, such as half of a height, in whole numbers."""

from fractions import Fraction
from functools import reduce
from typing import Any

import sympy
from torch.utils._sympy import functions as torch_functions

_LARGEST_DENOMINATOR = 1024
"""Factors are taken for the fraction next to them, as `Resize` takes its scales."""


def in_whole_numbers(expression: sympy.Expr) -> sympy.Expr:
    """Write an expression's rounded products of sizes and fractions as integer quotients; leave others as they are."""
    whole: Any = expression
    for function, is_up in _ROUNDING.items():
        whole = whole.replace(function, lambda argument, is_up=is_up: _quotient(argument, is_up))
    return whole


_ROUNDING = {torch_functions.CeilToInt: True, torch_functions.FloorToInt: False, torch_functions.TruncToInt: False}
"""Functions from floats to integers, of which sizes are not negative, and whether they round up."""


def _quotient(argument: Any, is_up: bool) -> Any:
    found = _fraction(argument)
    if found is None:
        return (torch_functions.CeilToInt if is_up else torch_functions.FloorToInt)(argument, evaluate=False)
    numerator, denominator = found
    if denominator == 1:
        return numerator
    return torch_functions.FloorDiv(numerator + (denominator - 1 if is_up else 0), sympy.Integer(denominator))


def _fraction(expression: Any) -> tuple[Any, int] | None:
    """An expression over floats as one over integers and what it is divided by."""
    if expression.is_number:
        fraction = Fraction(float(expression)).limit_denominator(_LARGEST_DENOMINATOR)
        return sympy.Integer(fraction.numerator), fraction.denominator
    if isinstance(expression, torch_functions.ToFloat):
        return expression.args[0], 1
    if expression.is_integer:
        return expression, 1
    parts = [_fraction(part) for part in expression.args]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if isinstance(expression, sympy.Mul):
        return reduce(lambda a, b: (a[0] * b[0], a[1] * b[1]), known)
    if isinstance(expression, sympy.Add):
        return reduce(lambda a, b: (a[0] * b[1] + b[0] * a[1], a[1] * b[1]), known)
    is_quotient = isinstance(expression, torch_functions.IntTrueDiv | torch_functions.FloatTrueDiv)
    if is_quotient and known[1][0].is_number:
        return known[0][0] * known[1][1], known[0][1] * int(known[1][0])
    return None
