"""What passes that train have in common: which weights, how long, in which form, and what comes back of it."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Interval, Unit

from ...ir.analysis.cost import elements, flops, sizes_in, summarize
from ...ir.drafts import workspace
from ...ir.errors import CheckError, UsageError
from ...ir.graph import Constant, Graph, Node
from ...ir.hash import structural_hash
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import TensorType
from ..base import Effect, Labelled, Pass, PassContext, PassResult
from ..judge import Verdict
from ..pipeline import format_pass
from ..precision import fast_precision
from ..rewrite.match import attribute_of
from ..sparsity.layers import prunable_layers, share_of_zeros
from ..sparsity.patterns import Pattern, zeros_of
from ..storage import Storage
from .block_weights import Unpacked, unpack_blocks
from .checkpoint import Checkpoint
from .climb import RATES, Climb, Weigher
from .gradual import GradualPruning
from .integer_weights import Rounding, make_trainable
from .learned_scales import ScalePlan, TrainedScale, learn_scales
from .lessons import MOST_ON_DISK, ROWS, Answer, Lessons, Piece, divide
from .trainer import Optimizer, Trainer, is_weight

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_EPOCHS = 40
"""How many times training goes through the samples, unless epochs are given or that would take too long."""
_STEPS, _MOST_STEPS = 600, 2400
"""The fewest and the most steps that this may be."""
_TRIAL, _LONGEST_TRIAL = 6, 50
"""A rate is tried for one step in the first number, up to the second."""
_OPERATIONS = 4e13
"""The operations that training takes at most, unless epochs are given: minutes of a processor core."""
_ELEMENT = 100
"""How many operations of a layer take torch as long as it takes to write an element of a tensor."""
_RUNS = 3
"""The cost of a step, in runs of the student: one forward, and two for the backward pass."""
_SLOWER = 5
"""How much longer a depthwise convolution takes in torch than others do for as many operations."""
_FEWEST = 8
"""The rows of an output that a step learns from at least, or one sample, where each costs many operations."""
_HELD_OUT = 10
"""How many pieces of the data there are for one that is held out."""
_PRUNED, _COARSE = 0.49, 4
"""The share of zeros from which a matrix was pruned, and the steps of a grid below which rounding makes as many."""
_CURVE = 100
"""How many numbers a curve of losses has at most, each the mean of a part."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is learned.

    Attributes:
        answer: gives the wanted outputs.
        compare: the loss of the student's outputs against the wanted ones.
        judge: judges the student's outputs for the pieces that are held out.
        teacher: the graph that gives the wanted outputs; None where labels do.
        learned: the loss below which nothing is left to learn.
    """

    answer: Answer
    compare: "Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]"
    judge: Weigher
    teacher: Graph | None = None
    learned: float = -math.inf


@dataclass(frozen=True)
class Training(Pass):
    """A pass that trains weights.

    Attributes:
        epochs: how many times the calibration data are gone through; 0 goes through them 40 times, but takes 600 steps
            of 32 samples at least and 2400 at most, or fewer and smaller steps where the model's operations would take
            long.
        accumulate: how many batches a step takes, whose gradients are averaged; more make larger steps in the memory
            that one batch takes.
        optimizer: `adamw` (Loshchilov and Hutter, 2019), or `sgd`, gradient descent with Nesterov's momentum.
        lr: how far a step may move a weight, as a share of its root mean square, or what `sgd` multiplies gradients by;
            it is warmed up, and falls to zero along a cosine. 0 tries several rates for a few steps, and takes the next
            larger one than that which lowers the loss most on what is held out.
        weight_decay: how much of its weights each layer loses in a step, as a multiple of the rate, apart from what
            gradients ask for; biases, integers and their scales lose nothing.
        clip: the most that the norm of all gradients together may be, as a multiple of its median in the steps so far;
            0 for no bound.
        average: the share of itself that a moving average of the weights keeps at each step, such as 0.99; the average
            is what is judged and kept. 0 for none.
        patience: how many twelfths of the training in a row may bring nothing better; one more ends it. 0 for any
            number.
        precision: the type that layers multiply in while they learn; weights, sums and what is judged stay in float32.
            `auto` takes bfloat16 where the processor multiplies in it.
        sparsity: the share of each layer's weights that becomes zero while training goes on, the smallest first (Zhu
            and Gupta, "To Prune, or Not to Prune", 2017); 0 for none.
        pattern: the pattern of these zeros, as `sparsify` takes it; such as `2:4` fixes the sparsity.
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = math.inf  # it may have to undo any damage; held-out data is its judge

    epochs: Annotated[int, Ge(0)] = 0
    accumulate: Annotated[int, Ge(1)] = 1
    optimizer: Optimizer = "adamw"
    lr: Annotated[float, Ge(0)] = 0.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    clip: Annotated[float, Ge(0)] = 1.0
    average: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    sparsity: Annotated[float, Interval(ge=0, lt=1), Unit("1")] = 0.0
    pattern: str = "4x16"

    def require(self, context: PassContext) -> None:
        share_of_zeros(self.name, self.sparsity, self.pattern)
        if not context.calibration:
            raise UsageError(
                f"{self.name} learns from inputs and got none; give calibration data "
                "(`data: {calibration: ...}` in a recipe, `-d DATA` on the command line)"
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        self._check_gradients(graph)
        student = graph.clone()
        frozen = {constant.name for constant in graph.constants.values() if not _is_selected(constant, context)}
        unpacked = unpack_blocks(student, frozen)
        weights = [it for it in student.constants.values() if is_weight(it) and it.name not in frozen]
        planned = self._scales(student, frozen)
        roundings = make_trainable(student, frozen)
        scales = learn_scales(student, planned)
        decayed = {it for it in weights if self.weight_decay and it.data.size > max(it.data.shape)}
        weights += [rounding.floats for rounding in roundings] + [scale.operands[1] for scale in scales if scale.least]
        if not weights:
            raise UsageError(f"{self.name}: the model has no weights to train" + " but frozen ones" * bool(frozen))
        pieces = divide(student, context.calibration, _labels(context))
        held_out = range(len(pieces) - 1, -1, -_HELD_OUT)
        task = self._task(graph, student, [pieces[place] for place in held_out], context)
        identity = [format_pass(self), *(weight.name for weight in weights), str(context.seed)]
        graphs = [graph, student, *([] if task.teacher is None else [task.teacher])]
        key = _key(identity, graphs, pieces) if context.checkpoints is not None else ""
        coarse = {it.floats for it in roundings if it.limits[1] - it.limits[0] < _COARSE}
        pruned = [it for it in weights if it not in coarse and _is_pruned(it)]
        checkpoint = Checkpoint(context.checkpoints, key)
        rows, steps = _plan(student, task.teacher, pieces, self.accumulate)
        pruning, dense = self._pruning(graph, student, context)
        trainer = Trainer(
            student,
            weights,
            task.compare,
            optimizer=self.optimizer,
            decay=self.weight_decay,
            decayed=decayed,
            clip=self.clip,
            average=self.average,
            pruned=pruned,
            pruning=pruning,
            precision=fast_precision() if self.precision == "auto" else self.precision,
        )
        with workspace() as folder:
            lessons = Lessons(task.answer, student, pieces, Storage(folder, MOST_ON_DISK))
            tell = partial(self._tell, context)
            random = np.random.default_rng(context.seed)
            climb = Climb(
                trainer, lessons, rows, self.accumulate, held_out, task.judge, random, tell, checkpoint, pruning
            )
            if climb.first.loss <= task.learned:
                return PassResult(misses=[self._learned()])
            told = self._train(climb, self.epochs * climb.steps_of_epoch or steps)
        checkpoint.erase()
        curve = [float(np.mean(part)) for part in np.array_split(climb.losses, _CURVE) if part.size]
        if climb.best is climb.first and pruning is None:
            return PassResult(misses=[f"training made nothing better on held-out data: {told}"], curve=curve)
        climb.finish()
        arrays = _written(student, scales, roundings, unpacked)
        notes = [f"on held-out data {told}"]
        if pruning is not None:
            notes.append(zeros_of(arrays[constant.name] for constant in pruning.layers))
        return PassResult({"weights": _copy_arrays(arrays, graph)}, dense, notes, curve=curve)

    @abstractmethod
    def _task(self, graph: Graph, student: Graph, judging: Sequence[Piece], context: PassContext) -> Task:
        """The task to learn.

        Args:
            graph: the graph to train, as it was.
            student: a copy of the graph, which may be given further outputs.
            judging: the pieces that are held out.
            context: the context of the pass.
        """

    def _learned(self) -> str:
        """Why nothing is left to learn."""
        return "nothing is left to learn"

    def _scales(self, graph: Graph, frozen: AbstractSet[str]) -> ScalePlan:
        """The scales that are trained: none, since grids stay as they are."""
        return ScalePlan()

    def _pruning(self, graph: Graph, student: Graph, context: PassContext) -> tuple[GradualPruning | None, list[str]]:
        """What makes weights zero, and why some layers stay dense.

        Raises:
            UsageError: all layers do.
        """
        if not (share := share_of_zeros(self.name, self.sparsity, self.pattern)):
            return None, []
        pattern = Pattern.of(self.pattern)
        found, misses = prunable_layers(graph, pattern, context, self.name)
        layers = [layer for layer in found if layer.weight.data.any()]  # an adapter's second weight begins with zeros
        if not layers:
            raise UsageError(f"{self.name}: no layer can lose weights: {next(iter(misses), 'all are zero')}")
        return GradualPruning(pattern, share, {student.constants[it.weight.name]: it for it in layers}), misses

    def _check_gradients(self, graph: Graph) -> None:
        for node in graph.nodes:
            if has_trait(node.operator, Trait.WITHOUT_GRADIENT):
                raise UsageError(
                    f"{self.name}: {node.operator} in {node.location} computes in integers, through which nothing is "
                    f"learnt; {self.name} before the model is quantized, or quantize with scheme=int8"
                )

    def _tell(self, context: PassContext, loss: float, best: Verdict, done: int, total: int) -> None:
        told = f"{self.name}: loss {loss:.3g}, at best {best.loss:.3g} with {_lost(best)}"
        context.progress(told, done, total)

    def _train(self, climb: Climb, steps: int) -> str:
        """Find the rate and train with it; returns what came of that, in words.

        Raises:
            CheckError: the loss was no number, and nothing better was found.
        """
        rate = self.lr or climb.find_rate(max(min(steps // _TRIAL, _LONGEST_TRIAL), 1), steps)
        if rate:
            climb.climb(rate, steps, self.patience)
        first, best = climb.first, climb.best
        if best is first and climb.lost >= (1 if self.lr else len(RATES)):
            remedy = (
                f"with lr={self.lr:g}; lower or omit it" if self.lr else "at any rate; look at the data and the loss"
            )
            raise CheckError(f"{self.name}: the loss is no longer a number {remedy}")
        return (
            f"the loss is {best.loss:.3g} with {_lost(best)}, against {first.loss:.3g} with {_lost(first)} before "
            f"(rate {rate:g}, {len(climb.losses) if rate else steps} steps)"
        )


def _lost(verdict: Verdict) -> str:
    """What the judge counts, in words."""
    return f"{-verdict.drop:.3g} % gained" if verdict.drop < 0 else f"{verdict.drop:z.3g} % lost"


def judged(context: PassContext, judging: Sequence[Piece]) -> Labelled | None:
    """The metric with the labels of the pieces that are held out."""
    labels = [piece.labels for piece in judging]
    return None if context.labelled is None else replace(context.labelled, labels=labels)


def _labels(context: PassContext) -> Sequence[object]:
    return context.labels or (() if context.labelled is None else context.labelled.labels)


def _key(identity: Sequence[str], graphs: Sequence[Graph], pieces: Sequence[Piece]) -> str:
    """A hash of all that a training depends on."""
    versions = [version(package) for package in ("planish", "torch")]
    digest = hashlib.sha256(repr([*identity, *map(structural_hash, graphs), *versions]).encode())
    for piece in pieces:
        for name, held in (*piece.feeds.items(), ("", piece.labels)):
            array = np.asarray(held)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def _is_selected(constant: Constant, context: PassContext) -> bool:
    """Whether all nodes that read a constant are selected."""
    return all(context.selects(use.node) for use in constant.uses)


def _plan(student: Graph, teacher: Graph | None, pieces: Sequence[Piece], accumulate: int) -> tuple[int, int]:
    """How many samples a batch has, and how many steps there are, by what they cost and how many samples there are."""
    first, count = pieces[0], sum(piece.rows for piece in pieces)
    run = _RUNS * _work(student, first)
    answer = 0.0 if teacher is None else _work(teacher, first)
    affordable = max(_OPERATIONS / (run + answer), (_OPERATIONS - count * answer) / run)  # each is answered once
    rows = int(min(ROWS, max(affordable / _STEPS, _FEWEST / _rows(student, first), 1), max(count // 4, 1)))
    taken = -(-rows // first.rows) * first.rows * accumulate  # a batch has whole pieces
    wanted = min(max(_EPOCHS * count / taken, _STEPS), _MOST_STEPS)
    return rows, int(min(wanted, max(affordable / taken, 1)))


def _work(graph: Graph, piece: Piece) -> float:
    """The cost of a sample in a graph, in operations of layers that torch is fast at."""
    sizes = sizes_in(graph, piece.feeds)
    slow = sum(flops(node, sizes) for node in graph.nodes if _is_depthwise(node))
    types = (value.type for node in graph.nodes for value in node.outputs)
    written = sum(elements(it, sizes) for it in types if it.is_ranked and it.dtype.is_float)
    return max(summarize(graph, sizes).flops + (_SLOWER - 1) * slow + _ELEMENT * written, 1) / piece.rows


def _rows(graph: Graph, piece: Piece) -> float:
    """How many rows of numbers an output has for a sample, such as one for each token; the most of all outputs."""
    sizes = sizes_in(graph, piece.feeds)
    outputs = [value.type for value in graph.outputs.values() if value.type.is_ranked]
    counts = (elements(TensorType(it.dtype, it.shape[:-1]), sizes) for it in outputs)
    return max(1, *counts) / piece.rows


def _is_depthwise(node: Node) -> bool:
    if node.operator != "Conv" or attribute_of(node, "group") == 1:
        return False
    weight = node.operand(1).type
    return weight.is_ranked and weight.shape[1] == 1


def _written(
    student: Graph, scales: Sequence[TrainedScale], roundings: Sequence[Rounding], unpacked: Sequence[Unpacked]
) -> dict[str, np.ndarray]:
    """What a trained student's constants are in the form that the model has them in, by name."""
    for scale in scales:
        scale.settle(student)
    arrays = {constant.name: constant.data for constant in student.constants.values()}
    arrays |= {rounding.constant.name: rounding.integers() for rounding in roundings}
    for weight in unpacked:
        arrays |= weight.packed(arrays[weight.codes.name])
    return arrays


def _copy_arrays(arrays: Mapping[str, np.ndarray], graph: Graph) -> int:
    """Give a graph's constants new arrays; returns how many differ from the old ones."""
    changed = 0
    for constant in graph.constants.values():
        array = arrays[constant.name]
        if not np.array_equal(array, constant.data, equal_nan=constant.dtype.is_float):
            constant.data = array
            changed += 1
    return changed


def _is_pruned(constant: Constant) -> bool:
    """Whether so many of a matrix's elements are zero that they are meant to stay so."""
    data = constant.data
    return data.ndim > 1 and _PRUNED <= 1 - np.count_nonzero(data) / data.size < 1
