"""Elementwise operators for which TVM loses NaN or infinity, lacks element types, or divides and shifts in its own way.

A division of integers by zero would end the process: it gives 0 here.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TypeAlias

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .....ir.graph import Node
from .....ir.types import DType
from ...kernels.epilogue import Broadcast, Epilogue, Operand, PostOp, elementwise_kernel
from ...kernels.vectors import Scalar, number
from .. import broadcasting
from ..emitter import Converter, Emitter, known_sizes
from ..expressions import choose, product, unraveled
from ..importer import imported

Element: TypeAlias = Callable[..., tirx.Expr]
"""A function from the node and elements of the operands to an element of the result."""


def _converter(element: Element) -> Callable[[Emitter, Node], relax.Expr]:
    """Return a converter that applies a function to elements of operands that are broadcast."""

    def convert(emitter: Emitter, node: Node) -> relax.Expr:
        broadcasting.bind_result(emitter, node)
        shape = node.output.shape
        operands = [broadcasting.operand(emitter, value, shape) for value in node.inputs if value is not None]
        kernel = partial(_broadcast, element=partial(element, node), name=node.operator.lower())
        return emitter.kernel(kernel, *operands, shape=emitter.shape(shape))

    return convert


def _broadcast(*operands: te.Tensor, element: Element, name: str, shape: Sequence[Scalar]) -> te.Tensor:
    def compute(*place: tirx.Expr) -> tirx.Expr:
        return element(*(_at(x, place) for x in operands))

    return te.compute(shape, compute, name=name)


def _at(x: te.Tensor, place: Sequence[tirx.Expr]) -> tirx.Expr:
    """Return the element of an operand that belongs to a place of the result."""
    pairs = zip(x.shape, place[len(place) - len(x.shape) :], strict=True)
    return x(*(0 if isinstance(size, tirx.IntImm) and int(size) == 1 else index for size, index in pairs))


def _is_float(node: Node) -> bool:
    return node.operand(0).dtype.is_float


def _larger(node: Node, *elements: tirx.Expr) -> tirx.Expr:
    return reduce(lambda a, b: choose(_wins(node, a, a > b), a, b), elements)


def _smaller(node: Node, *elements: tirx.Expr) -> tirx.Expr:
    return reduce(lambda a, b: choose(_wins(node, a, a < b), a, b), elements)


def _wins(node: Node, a: tirx.Expr, is_beyond: tirx.Expr) -> tirx.Expr:
    return tirx.any(is_beyond, tirx.isnan(a)) if _is_float(node) else is_beyond


def _relu(node: Node, x: tirx.Expr) -> tirx.Expr:
    return choose(x < number(0, x), number(0, x), x)


def _elu(node: Node, x: tirx.Expr) -> tirx.Expr:
    return _curved(x, node.attributes.get("alpha", 1.0))


def _selu(node: Node, x: tirx.Expr) -> tirx.Expr:
    alpha, gamma = (node.attributes.get(name, default) for name, default in _SELU)
    return _curved(x, alpha) * number(gamma, x)


_SELU = (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))


def _curved(x: tirx.Expr, alpha: float) -> tirx.Expr:
    return choose(x < number(0, x), number(alpha, x) * (tirx.exp(x) - number(1, x)), x)


def _thresholded(node: Node, x: tirx.Expr) -> tirx.Expr:
    return choose(x > number(node.attributes.get("alpha", 1.0), x), x, number(0, x))


def _hard_sigmoid(node: Node, x: tirx.Expr) -> tirx.Expr:
    y = number(node.attributes.get("alpha", 0.2), x) * x + number(node.attributes.get("beta", 0.5), x)
    y = choose(y < number(0, x), number(0, x), y)
    return choose(y > number(1, x), number(1, x), y)


def _sloped(node: Node, x: tirx.Expr, slope: tirx.Expr) -> tirx.Expr:
    return choose(x < number(0, x), x * slope, x)


def _sign(node: Node, x: tirx.Expr) -> tirx.Expr:
    positive = choose(x > number(0, x), number(1, x), number(0, x))
    if str(x.ty.dtype).startswith("uint"):
        return positive
    sign = choose(x < number(0, x), number(-1, x), positive)
    return choose(tirx.isnan(x), x, sign) if _is_float(node) else sign


def _shrunk(node: Node, x: tirx.Expr) -> tirx.Expr:
    """Shrink an element towards 0 by a bias outside of a bound (Shrink); integers go through float64."""
    bound, bias = (node.attributes.get(name, default) for name, default in (("lambd", 0.5), ("bias", 0.0)))
    y = x if _is_float(node) else x.astype("float64")
    above = choose(y > number(bound, y), y - number(bias, y), number(0, y))
    return choose(y < number(-bound, y), y + number(bias, y), above).astype(x.ty.dtype)


def _modulo(node: Node, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return the remainder, with the sign of the dividend if `fmod` says so, and of the divisor otherwise."""
    nought = number(0, a)
    rest = _float_rest(a, b) if _is_float(node) else choose(_is_safe(node, b), tirx.truncmod(a, _safe(node, b)), nought)
    if node.attributes.get("fmod", 0) or node.output.dtype.is_unsigned:
        return rest
    differ = tirx.any(tirx.all(rest < nought, b > nought), tirx.all(rest > nought, b < nought))
    return choose(differ, rest + b, rest)


def _float_rest(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return C's fmod: TVM's own multiplies a rounded quotient."""
    return tirx.call_pure_extern(a.ty.dtype, "fmod" if str(a.ty.dtype) == "float64" else "fmodf", a, b)


def _quotient(node: Node, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Return the quotient; integers are divided towards zero."""
    if _is_float(node):
        return a / b
    nought = number(0, a)
    y = choose(tirx.EQ(b, nought), nought, tirx.truncdiv(a, _safe(node, b)))
    return y if node.output.dtype.is_unsigned else choose(tirx.EQ(b, number(-1, b)), nought - a, y)


def _is_safe(node: Node, b: tirx.Expr) -> tirx.Expr:
    """Whether a machine can divide integers by a number: not by 0, nor by -1, as the least integer overflows."""
    is_safe = tirx.NE(b, number(0, b))
    return is_safe if node.output.dtype.is_unsigned else tirx.all(is_safe, tirx.NE(b, number(-1, b)))


def _safe(node: Node, b: tirx.Expr) -> tirx.Expr:
    return choose(_is_safe(node, b), b, number(1, b))


def _shifted(node: Node, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """Shift an integer.

    Shifted by its width or more, it is 0, or its sign if it is shifted to the right.
    """
    bits, is_left = node.output.dtype.bits, node.attributes["direction"] == "LEFT"
    is_within = tirx.EQ(b >> number(bits.bit_length() - 1, b), number(0, b))  # TVM misjudges "less" of uint64
    count = b & number(bits - 1, b)
    rest = number(0, a) if is_left or node.output.dtype.is_unsigned else a >> number(bits - 1, a)
    return choose(is_within, a << count if is_left else a >> count, rest)


def equal(emitter: Emitter, node: Node) -> relax.Expr:
    """Compare elements; truth values by exclusive or, since LLVM can't compare them."""
    value = node.operand(0)
    if value.dtype is not DType.bool:
        return imported(emitter, node)
    return relax.op.logical_not(_XOR(emitter, node))


_XOR = _converter(lambda node, a, b: tirx.any(tirx.all(a, tirx.Not(b)), tirx.all(tirx.Not(a), b)))


def clip(emitter: Emitter, node: Node) -> relax.Expr:
    """Clip to bounds that are tensors of one number, either of which may be missing; NaN stays."""
    x = emitter.tensor(node.operand(0))
    low, high = (None if value is None else emitter.tensor(value) for value in (node.input(1), node.input(2)))
    given = [bound for bound in (low, high) if bound is not None]

    def clip(x: te.Tensor, *bounds: te.Tensor) -> te.Tensor:
        rest = iter(bounds)
        lowest = next(rest) if low is not None else None
        highest = next(rest) if high is not None else None

        def element(*place: tirx.Expr) -> tirx.Expr:
            y = x(*place)
            if lowest is not None:
                bound = lowest(*[0] * len(lowest.shape))
                y = choose(y < bound, bound, y)
            if highest is not None:
                bound = highest(*[0] * len(highest.shape))
                y = choose(y > bound, bound, y)
            return y

        return te.compute(x.shape, element, name="clip")

    return emitter.kernel(clip, x, *given)


def power(emitter: Emitter, node: Node) -> relax.Expr:
    """Raise to a power: integers exactly, wrapping around; for floats TVM's own converter is right."""
    if _is_float(node):
        return imported(emitter, node)
    broadcasting.bind_result(emitter, node)
    shape = emitter.shape(node.output.shape)
    values = [value for value in node.inputs if value is not None]
    operands = [broadcasting.operand(emitter, value, node.output.shape) for value in values]
    x, exponent = (emitter.block.emit(emitter.kernel(broadcasting.spread, x, shape=shape)) for x in operands)
    found = emitter.block.emit(emitter.kernel(partial(_powers, bits=values[1].dtype.bits), x, exponent))
    return relax.TupleGetItem(found, 0)


def _powers(x: te.Tensor, exponent: te.Tensor, *, bits: int) -> Sequence[te.Tensor]:
    """Raise integers to powers by repeated squaring; a negative power of anything but 1 and -1 is 0."""
    base_type, type = str(x.dtype), str(exponent.dtype)

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        base, power, y, square = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
        with IRBuilder() as builder:
            with T.serial(0, product(x.shape)) as step, T.seq_scope():
                place = tuple(unraveled(step, x.shape))
                number, last = base[place], power[place]
                y[place], square[0] = tirx.const(1, base_type), number
                with T.serial(0, bits) as bit, T.seq_scope():
                    y[place] = choose(_is_odd(last >> bit.astype(type), type), y[place] * square[0], y[place])
                    square[0] = square[0] * square[0]
                if not type.startswith("u"):
                    left = _inverse(number, _is_odd(last, type), base_type)
                    y[place] = choose(last < tirx.const(0, type), left, y[place])
            return builder.get()

    outs = [tirx.decl_buffer(shape, base_type, "power", layout=None) for shape in (x.shape, [1])]
    types = [base_type, base_type]
    return te.extern([x.shape, [1]], [x, exponent], body, dtype=types, out_buffers=outs, name="power")


def _is_odd(number: tirx.Expr, type: str) -> tirx.Expr:
    return tirx.EQ(number & tirx.const(1, type), tirx.const(1, type))


def _inverse(number: tirx.Expr, is_odd: tirx.Expr, type: str) -> tirx.Expr:
    """Return a negative power, cut towards zero."""
    one, nought = (tirx.const(value, type) for value in (1, 0))
    left = choose(tirx.EQ(number, one), one, nought)
    if type.startswith("u"):
        return left
    minus = tirx.const(-1, type)
    return choose(tirx.EQ(number, minus), choose(is_odd, minus, one), left)


def _approximated(emitter: Emitter, node: Node) -> relax.Expr:
    """Compute vectors in registers; for each element of TVM's own kernels, LLVM would call the mathematics library."""
    x = node.operand(0)
    if x.dtype is not DType.float32:
        return imported(emitter, node)
    step = PostOp(node.operator, tuple(sorted(node.attributes.items())), (1,))
    kernel = elementwise_kernel(
        known_sizes(x.shape), Epilogue((Operand(Broadcast.ELEMENTS),), (step,)), emitter.machine
    )
    return emitter.prim_func(node.operator.lower(), kernel, [emitter.tensor(x)], node.output.type)


CONVERTERS: dict[str, Converter] = {
    "BitShift": _converter(_shifted),
    "Clip": clip,
    "Div": _converter(_quotient),
    "Elu": _converter(_elu),
    "Equal": equal,
    "Erf": _approximated,
    "HardSigmoid": _converter(_hard_sigmoid),
    "Max": _converter(_larger),
    "Min": _converter(_smaller),
    "Mod": _converter(_modulo),
    "PRelu": _converter(_sloped),
    "Pow": power,
    "Relu": _converter(_relu),
    "Selu": _converter(_selu),
    "Shrink": _converter(_shrunk),
    "Sigmoid": _approximated,
    "Sign": _converter(_sign),
    "ThresholdedRelu": _converter(_thresholded),
}
