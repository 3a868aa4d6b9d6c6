"""Recurrent layers, each direction of which is one kernel for all steps."""

from tvm import relax

from .....ir.graph import Node
from .....passes.legalization.expansions.recurrent import RECURRENT_STEPS
from ...kernels.gemm import packed
from ...kernels.recurrence import Recurrence, recurrence_kernel
from ..emitter import Converter, Emitter, known_size

_BESIDE = ("bias", "lengths", "h", "c", "holes")
"""The names of the inputs behind the weights."""


def recurrent_steps(emitter: Emitter, node: Node) -> relax.Expr:
    inputs, attributes = node.operand(0), node.attributes
    beside = {name: value for index, name in enumerate(_BESIDE) if (value := node.input(2 + index)) is not None}
    hidden = node.operand(1).shape[0]
    assert isinstance(hidden, int)
    recurrence = Recurrence(
        attributes["layer"],
        known_size(inputs.shape[0]),
        known_size(inputs.shape[1]),
        hidden,
        attributes["activations"],
        attributes.get("direction") == "reverse",
        attributes.get("clip"),
        bool(attributes.get("input_forget")),
        bool(attributes.get("linear_before_reset")),
        frozenset(beside),
        node.constant(1) is not None,
    )
    kernel = recurrence_kernel(recurrence, emitter.machine)
    arguments = [emitter.tensor(inputs), *_weights(emitter, node, recurrence), *map(emitter.tensor, beside.values())]
    return emitter.prim_func("recurrence", kernel, arguments, *(output.type for output in node.outputs))


def _weights(emitter: Emitter, node: Node, recurrence: Recurrence) -> list[relax.Expr]:
    """Return the matrices that the state is multiplied by, packed if they are constant."""
    found: list[relax.Expr] = []
    data, first = node.constant(1), 0
    for columns in recurrence.columns:
        if data is not None:
            part = data[:, first : first + columns]
            found.append(relax.const(packed(part, recurrence.tile(columns, emitter.machine))))
        else:
            whole = emitter.tensor(node.operand(1))
            found.append(relax.op.strided_slice(whole, [1], [first], [first + columns]))
        first += columns
    return found


CONVERTERS: dict[str, Converter] = {RECURRENT_STEPS: recurrent_steps}
