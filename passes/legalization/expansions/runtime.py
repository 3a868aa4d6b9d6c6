"""What ONNX Runtime has no kernel for, or computes otherwise than the standard says, spelled out."""

import numpy as np

from ....ir.builder import Builder
from ....ir.dims import Dim
from ....ir.graph import Constant, Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, known_size
from .attention import repeat_heads, scores
from .branches import written_out


def _bernoulli(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    drawn = op.RandomUniformLike(x, seed=attribute(node, "seed", None))
    return cast(op, op.Less(drawn, x), node.output.dtype)


def _flex_attention(op: Builder, node: Node) -> Value:
    """Scaled dot products, with the graphs inside the node written out."""
    q, k, v = (node.operand(index) for index in range(3))
    repeats = known_size(q, 1) // known_size(k, 1)
    k, v = (repeat_heads(op, value, repeats) for value in (k, v))
    working = DType(attribute(node, "softmax_precision", None) or q.dtype.at_least_single.value)
    modified = _changed(op, node, "score_mod", cast(op, scores(op, node, q, k), working))
    weights = _changed(op, node, "prob_mod", op.Softmax(modified))
    return cast(op, op.MatMul(weights, cast(op, v, working)), v.dtype)


def _changed(op: Builder, node: Node, name: str, value: Value) -> Value:
    body = attribute(node, name, None)
    return value if body is None else written_out(op, body, [value])[0]


def is_of_vectors(node: Node) -> bool:
    """Whether a Range is told its bounds by tensors that are no scalars, or may not be."""
    return any(value is not None and value.type.dims != () for value in node.inputs)


def _range(op: Builder, node: Node) -> Value:
    scalar = np.zeros(0, np.int64)
    return op.Range(*(op.Reshape(node.operand(index), scalar) for index in range(3)), **node.attributes)


def is_unaligned(node: Node) -> bool:
    """Whether corners are to be aligned by scales that make no whole number of elements.

    The standard measures by the scale, ONNX Runtime by the elements that there are. An input of unknown rank is taken
    for one, and so are scales that only data tells; the expansion refuses both.
    """
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "align_corners" or node.input(2) is None:
        return False
    is_known = node.operand(0).type.is_ranked and node.constant(2) is not None
    return not is_known or any(length != size for length, size in _lengths(node))


def _lengths(node: Node) -> list[tuple[float, int]]:
    """The exact and the whole length of each axis that a Resize changes by known scales; nothing where it doesn't."""
    x, scales = node.operand(0), node.constant(2)
    if scales is None:
        return []
    axes = attribute(node, "axes", None) or range(x.type.rank)
    sizes = [(x.shape[axis], node.output.shape[axis], float(scale)) for axis, scale in zip(axes, scales, strict=False)]
    return [(have * scale, made) for have, made, scale in sizes if isinstance(have, int) and isinstance(made, int)]


def _resize(op: Builder, node: Node) -> Value:
    """Resize the part of the input that the elements reach, with the corners aligned to the input's."""
    if node.constant(2) is None:
        raise RefusedError("the scales that its corners are aligned by are known at run time alone")
    lengths = _lengths(node)
    ends = [(size - 1) / (length - 1) if size > 1 else 0.0 for length, size in lengths]
    changed = {name: value for name, value in node.attributes.items() if name != "coordinate_transformation_mode"}
    return op.Resize(
        node.operand(0),
        np.array([0.0] * len(ends) + ends, np.float32),
        None,
        [size for _, size in lengths],
        coordinate_transformation_mode="tf_crop_and_resize",
        **changed,
    )


def _swiglu(op: Builder, node: Node) -> Value:
    return op.Mul(op.Swish(node.operand(0), **node.attributes), node.operand(1))


def as_quick_gelu(node: Node) -> Expansion | None:
    """A float32 Swish as QuickGelu, an operator that ONNX Runtime makes of two by itself, but not of integers."""
    return _quick_gelu if node.output.dtype is DType.float32 else None


def _quick_gelu(op: Builder, node: Node) -> Value:
    return op("com.microsoft::QuickGelu", node.operand(0), alpha=float(attribute(node, "alpha", 1.0)))


_SOFTMAX, _LOGISTIC = 1, 2


def untransformed(node: Node) -> Expansion | None:
    """An expansion of ensembles whose `post_transform` is a function whose number ONNX Runtime has mixed up."""
    return _tree_ensemble if attribute(node, "post_transform", 0) in (_SOFTMAX, _LOGISTIC) else None


def _tree_ensemble(op: Builder, node: Node) -> Value:
    kept = {name: value for name, value in node.attributes.items() if name != "post_transform"}
    scores = op(node.operator, node.operand(0), **kept)
    return op.Softmax(scores) if attribute(node, "post_transform", 0) == _SOFTMAX else op.Sigmoid(scores)


def divides_least(node: Node) -> bool:
    """Whether a node may divide the least integer by -1, over which the processor ends ONNX Runtime's process."""
    from ....ir.contents import contents

    a, b, dtype = node.operand(0), node.operand(1), node.output.dtype
    if dtype not in (DType.int32, DType.int64) or _is_other_than_minus_one(b):
        return False
    if isinstance(a, Constant):
        return bool((a.data == dtype.limits[0]).any())
    return contents(a) is None  # sizes are never as low


def _is_other_than_minus_one(value: Value) -> bool:
    """Whether a divisor is a constant without -1, or had -1 replaced by `_quotient`."""
    if isinstance(value, Constant):
        return not (value.data == -1).any()
    where = value.producer
    if where is None or where.operator != "Where" or not np.array_equal(_numbers(where, 1), 1):
        return False
    equal = where.operand(0).producer
    if equal is None or equal.operator != "Equal" or equal.inputs[0] is not where.inputs[2]:
        return False
    return np.array_equal(_numbers(equal, 1), -1)


def _numbers(node: Node, index: int) -> np.ndarray:
    """The data of an operand that is a constant; empty for any other."""
    data = node.constant(index)
    return np.zeros(0) if data is None else data


def _quotient(op: Builder, node: Node) -> Value:
    """Divide, but negate where the divisor is -1, which wraps as in the interpreter."""
    a, b = node.operand(0), node.operand(1)
    one, minus_one = (op.constant(np.array(number, b.dtype.numpy)) for number in (1, -1))
    is_minus_one = op.Equal(b, minus_one)
    return op.Where(is_minus_one, op.Neg(a), op.Div(a, op.Where(is_minus_one, one, b)))


def never_empty(node: Node) -> Expansion | None:
    """An expansion that lets a recurrent layer fail before its kernel, which would end the process on empty input.

    The kernel would do so where there is no batch, and for GRU where there is no step. The expansion's reshape fails
    there, since a size can't follow from others of which one is 0. None where it isn't needed.
    """
    x, shape = node.operand(0), _FOLLOWING.get(node.operator, _ANY_TIME)
    if x.type.is_ranked:
        time, batch = x.shape[:2]
        if _is_sure(batch) and (_is_sure(time) or shape is _ANY_TIME):
            return None
    made = x.producer
    if made is not None and made.operator == "Reshape" and np.array_equal(_numbers(made, 1), shape):
        return None
    return lambda op, node: op(
        node.operator,
        op.Reshape(node.operand(0), shape),
        *node.inputs[1:],
        outputs=len(node.outputs),
        **node.attributes,
    )


_ANY_TIME = (-1, 0, 0)
_FOLLOWING = {"GRU": (0, 0, -1)}
"""Shapes of `[time, batch, size]` in which one size follows from those that must not be 0; others are `_ANY_TIME`."""


def _is_sure(dim: Dim) -> bool:
    return isinstance(dim, int) and dim > 0


EXPANSIONS: dict[str, Expansion] = {
    "Bernoulli": _bernoulli,
    "Div": _quotient,
    "Range": _range,
    "Resize": _resize,
    "SwiGLU": _swiglu,
    "ai.onnx.preview::FlexAttention": _flex_attention,
}
