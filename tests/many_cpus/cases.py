"""Small graphs that ask for every kernel, in all element types, of sizes that fill no vector.

Numbers are such that results don't depend on the order of sums by more than a case's tolerance, and that bytes are
exact.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np

from . import images, products, rows
from .case import Case


@cache
def cases() -> Mapping[str, Case]:
    """All of them, by name; the same numbers each time."""
    makers = {**products.CASES, **images.CASES, **rows.CASES}
    return {name: make(np.random.default_rng(0)) for name, make in makers.items()}
