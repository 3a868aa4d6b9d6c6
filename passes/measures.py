"""How a graph's outputs are compared with those of the model that it is to match."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import TYPE_CHECKING

from ..ir.graph import Constant, Graph, Value
from ..ir.operators import has_trait
from ..ir.traits import Trait

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


class LossKind(Enum):
    """How one output is compared with the teacher's."""

    PROBABILITIES = "kl of probabilities"
    LOGITS = "kl of logits"
    NUMBERS = "mse"


def choose_measures(teacher: Graph, loss: str) -> dict[str, LossKind]:
    """The kind of loss for each output in float, by the output's name.

    Args:
        teacher: the graph whose outputs are to be matched.
        loss: `kl`, `mse`, or `auto`, which takes `kl` for what a softmax gives and for logits, and `mse` for the rest.
            Logits are what a linear layer gives in two dimensions, with more than one number in a row and reshaped or
            not, or in three with a number for each row of an embedding's table; and the logarithms of a softmax.
    """
    tables = (node.constant(0) for node in teacher.nodes if node.operator == "Gather")
    vocabularies = {len(table) for table in tables if table is not None and table.ndim == 2}
    return {
        name: _measure(value, loss, vocabularies) for name, value in teacher.outputs.items() if value.dtype.is_trainable
    }


def _measure(output: Value, loss: str, vocabularies: AbstractSet[int]) -> LossKind:
    if loss == "mse":
        return LossKind.NUMBERS
    producer = _unshaped(output).producer
    if producer is not None and producer.operator == "Softmax":
        return LossKind.PROBABILITIES
    is_logits = (producer is not None and producer.operator == "LogSoftmax") or any(
        _is_logits(value, vocabularies) for value in (output, _unshaped(output))
    )
    return LossKind.LOGITS if loss == "kl" or is_logits else LossKind.NUMBERS


def class_axis(output: Value) -> int:
    """The axis along which an output holds classes, if it does: that of a softmax which gives it, otherwise the last.

    An image of classes for each pixel has them along its second axis.
    """
    node = output.producer
    if node is None or node.operator not in ("LogSoftmax", "Softmax"):
        return -1
    return int(node.attributes.get("axis", -1))


def _unshaped(value: Value) -> Value:
    """The value before any reshapes that keep its last axis."""
    node = value.producer
    if node is None or not has_trait(node.operator, Trait.RESHAPING) or not value.type.is_ranked:
        return value
    source = node.operand(0)
    return _unshaped(source) if source.type.is_ranked and source.shape[-1:] == value.shape[-1:] else value


def _is_logits(output: Value, vocabularies: AbstractSet[int]) -> bool:
    node = output.producer
    if not output.type.is_ranked or output.shape[-1:] == (1,):  # there is nothing to choose from
        return False
    if node is None or not (output.type.rank == 2 or (output.type.rank == 3 and output.shape[-1] in vocabularies)):
        return False
    if node.operator == "Add":  # a bias
        operands = [value for value in node.inputs if value is not None and not isinstance(value, Constant)]
        node = operands[0].producer if len(operands) == 1 else None
    return node is not None and node.operator in ("Gemm", "MatMul")


def is_of_sigmoid(output: Value) -> bool:
    """Whether an output's numbers are a sigmoid's, each of which says yes or no by itself."""
    node = output.producer
    while node is not None and has_trait(node.operator, Trait.MOVING):
        node = node.operand(0).producer
    return node is not None and node.operator == "Sigmoid"


def measure(
    measures: Mapping[str, LossKind],
    got: Mapping[str, "Tensor"],
    wanted: Mapping[str, "Tensor"],
    temperature: float,
    *,
    offsets: bool = False,
) -> "Tensor":
    """The loss of one batch, summed over outputs; classes lie along the last axis.

    Args:
        measures: the kind of loss for each output.
        got: the outputs that are compared, by name.
        wanted: what they should be.
        temperature: what logits are divided by before they become probabilities.
        offsets: whether what is added to all logits of a row alike counts, too, which probabilities don't tell. The
            divergence is about half the variance of what is added to likely classes, and half the square of its mean
            makes that half the mean square. Nobody reads logits in three dimensions, as language models give them, one
            by one; their offsets don't count.
    """
    losses = [
        _distance(kind, sized(got[name], wanted[name]).float(), wanted[name].float(), temperature, offsets=offsets)
        for name, kind in measures.items()
    ]
    return sum(losses[1:], start=losses[0])


def sized(got: "Tensor", wanted: "Tensor") -> "Tensor":
    """An output in the sizes of the one that it is compared with: zeros for what it lacks, without what it has beyond.

    Data decide how many boxes a detector keeps, the surest of them first, and rounding moves scores across bounds.
    """
    if got.ndim != wanted.ndim or got.shape == wanted.shape:
        return got
    common = tuple(slice(min(sizes)) for sizes in zip(got.shape, wanted.shape, strict=True))
    found = got.new_zeros(wanted.shape)
    found[common] = got[common]
    return found


def _distance(kind: LossKind, got: "Tensor", wanted: "Tensor", temperature: float, *, offsets: bool) -> "Tensor":
    if kind is LossKind.NUMBERS:
        return (got - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
    if kind is LossKind.PROBABILITIES:
        got, wanted = got.clamp_min(1e-12).log(), wanted.clamp_min(1e-12).log()
    scaled = (got, wanted) if temperature == 1 else (got / temperature, wanted / temperature)
    ours, theirs = (logits.log_softmax(-1) for logits in scaled)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean() * temperature**2
    if not offsets or kind is LossKind.PROBABILITIES or got.ndim > 2:
        return divergence
    return divergence + (theirs.exp() * (got - wanted)).sum(-1).square().mean() / 2
