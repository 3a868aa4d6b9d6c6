"""Results in which backends differ as docs/edges.md has it, whatever passes do: the standard says nothing of most.

Numbers that are given are infinite or NaN in the cases of which it says something, and an algorithm that is faster than
its formula carries them further, or not as far.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from planish.ir.errors import PlanishError
from planish.ir.graph import Constant, Node, Value, nested_nodes
from planish.ir.interpreter import Interpreter
from planish.ir.ops.dtypes import to_numpy
from planish.ir.types import DType

from .graphs import Sample

Operands = Sequence[np.ndarray | None]


def _has_nan(array: np.ndarray | None) -> bool:
    return array is not None and array.dtype.kind == "f" and bool(np.isnan(array).any())


def _has_infinity(array: np.ndarray | None) -> bool:
    return array is not None and array.dtype.kind == "f" and bool(np.isinf(array).any())


def _reaches_minus_infinity(array: np.ndarray | None) -> bool:
    return array is not None and _has_infinity(array) and bool(np.isneginf(array).any())


def _power(operands: Operands) -> bool:
    base, exponent = operands
    assert base is not None
    assert exponent is not None
    if base.dtype.kind not in "iu":
        return False
    with np.errstate(all="ignore"):
        size = np.abs(base.astype(np.float64)) ** exponent.astype(np.float64)
    return bool(np.any(size > np.iinfo(base.dtype).max))  # 0 to the power of -1 is infinite


def _is_whole(array: np.ndarray | None) -> bool:
    return array is not None and array.dtype.kind == "f" and bool(np.any(np.floor(array) == array))


def _scale_of_nan(operands: Operands) -> bool:
    """Whether something by which sums of products are multiplied is NaN, as infinity by infinity is."""
    scales = [operands[place] for place in (1, 4, 6)]
    with np.errstate(all="ignore"):
        left, right, result = (np.float32(scale) for scale in scales if scale is not None)
        return bool(np.isnan(np.divide.outer(np.multiply.outer(left, right), result)).any())


UNSPECIFIED: dict[tuple[str, str], Callable[[Operands], bool]] = {
    ("ArgMax", "NaN"): lambda operands: _has_nan(operands[0]),
    ("ArgMin", "NaN"): lambda operands: _has_nan(operands[0]),
    ("Cast to string", "truth values"): lambda operands: operands[0] is not None and operands[0].dtype == np.bool_,
    ("Cast to string", "whole floats"): lambda operands: _is_whole(operands[0]),
    ("Clip", "a bound of NaN"): lambda operands: any(map(_has_nan, operands[1:])),
    ("ConvTranspose", "a weight of infinity"): lambda operands: _has_nan(operands[1]) or _has_infinity(operands[1]),
    ("ConvTranspose", "infinity beside gaps"): lambda operands: _has_nan(operands[0]) or _has_infinity(operands[0]),
    ("DFT", "infinity"): lambda operands: _has_nan(operands[0]) or _has_infinity(operands[0]),
    ("DeformConv", "NaN beyond the window"): lambda operands: _has_nan(operands[0]) or _has_infinity(operands[0]),
    ("DynamicQuantizeLinear", "NaN"): lambda operands: _has_nan(operands[0]),
    ("DynamicQuantizeLinear", "minus infinity"): lambda operands: _reaches_minus_infinity(operands[0]),
    ("GridSample", "a coordinate of NaN"): lambda operands: _has_nan(operands[1]),
    ("Hardmax", "NaN"): lambda operands: _has_nan(operands[0]),
    ("LRN", "NaN beyond the window"): lambda operands: _has_nan(operands[0]) or _has_infinity(operands[0]),
    ("MaxPool", "NaN"): lambda operands: _has_nan(operands[0]),
    ("Pow", "integers beyond 64 bits, 0 to the power of -1"): _power,
    ("QLinearMatMul", "a scale of NaN"): _scale_of_nan,
    ("STFT", "infinity"): lambda operands: any(_has_nan(it) or _has_infinity(it) for it in operands[::2]),
    ("Unique", "NaN"): lambda operands: _has_nan(operands[0]),
}
"""Whether operands are such a case, for each operator and case of the table."""


def unspecified(sample: Sample) -> dict[str, str]:
    """The outputs that such a case has an influence on, each with the case."""
    watch = _Watch()
    interpreter = Interpreter(sample.graph)
    for probe in sample.probes:
        try:
            interpreter.run(probe, watch)
        except PlanishError:  # it may refuse such operands
            continue
    reasons = dict[Value, str]()
    for node in sample.graph.nodes:
        if reason := next(_reasons(node, watch.cases, reasons), None):
            reasons |= dict.fromkeys(node.outputs, reason)
    return {name: reasons[value] for name, value in sample.graph.outputs.items() if value in reasons}


def _reasons(node: Node, cases: dict[Node, str], reasons: dict[Value, str]) -> Iterator[str]:
    inner = [each for graph in node.graphs for each in nested_nodes(graph)]
    yield from (cases[each] for each in (node, *inner) if each in cases)
    yield from (reasons[value] for value in (*node.inputs, *node.captured) if value in reasons)


class _Watch:
    """Notes the nodes, those inside of others too, whose operands are such a case."""

    def __init__(self) -> None:
        self.cases: dict[Node, str] = {}
        self._tensors: dict[Value, Any] = {}

    def __call__(self, value: Value, tensor: Any) -> None:
        self._tensors[value] = tensor
        node = value.producer
        if node is None or value is not node.outputs[0]:
            return
        name = "Cast to string" if node.operator == "Cast" and value.dtype is DType.string else node.operator
        for (operator, case), applies in UNSPECIFIED.items():
            if operator == name and applies([self._array(operand) for operand in node.inputs]):
                self.cases[node] = f"{operator}: {case}"

    def _array(self, value: Value | None) -> np.ndarray | None:
        if value is None or isinstance(value, Constant):
            return None if value is None else value.data
        return to_numpy(self._tensors[value]) if value in self._tensors else None
