"""Guards against rows that are masked altogether are dropped where no row is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.analysis.finiteness import Places, finite_places
from ...ir.graph import Graph, Node, Value, nested
from ..base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True)
class SoftmaxGuardRemoval(Pass):
    """Drop what turns the NaN of a softmax over nothing into zeros, where it is proved that each row has something.

    torch gives zeros for a row of attention that is masked altogether. Exporters write that as `Where(IsNaN(p), 0, p)`,
    or as `Where(mask, p, 0)` where `p` is the softmax of `Where(mask, scores, -inf)`. The proof follows what masks are
    made of (`ir/analysis/finiteness`): a causal triangle lets each row see its diagonal, masks of finite numbers close
    no place, and without a mask nothing is closed. It takes float inputs for finite numbers, and arithmetic of such for
    finite; where it overflows instead, NaN is no longer turned into zeros. A mask that is an input may close a row: its
    guards stay.
    """

    name: ClassVar[str] = "drop-softmax-guards"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts, misses = {"guard": 0}, list[str]()
        for part in nested(graph):
            guards = [(node, softmax) for node in part.nodes if (softmax := _guarded(node)) is not None]
            known = finite_places(part, takes_numbers=part is graph) if guards else {}
            for node, softmax in guards:
                if not _is_open(softmax, known):
                    misses.append(f"guard at {node.location}: a row may be masked altogether, as far as can be told")
                elif context.applies("guard", node):
                    part.replace_uses(node.output, softmax.output)
                    _erase(part, node)
                    counts["guard"] += 1
        return PassResult(counts, misses)


def _guarded(node: Node) -> Node | None:
    """The softmax that a Where guards; None where it is something else."""
    if node.operator != "Where":
        return None
    condition, yes, no = node.inputs
    test = None if condition is None else condition.producer
    if test is not None and test.operator == "IsNaN":
        softmax = None if no is None or no is not test.inputs[0] else no.producer
    else:
        is_zero = node.constant(2) is not None and not np.any(node.constant(2))
        softmax = yes.producer if is_zero and yes is not None and _is_masked(yes.producer, condition) else None
    is_same = softmax is not None and softmax.operator == "Softmax" and softmax.output.type == node.output.type
    return softmax if is_same else None


def _is_masked(softmax: Node | None, mask: Value | None) -> bool:
    """Whether a softmax gives zeros where a mask is false, if it gives numbers."""
    scores = softmax.inputs[0].producer if softmax is not None and softmax.inputs[0] is not None else None
    if scores is None or scores.operator != "Where" or scores.inputs[0] is not mask:
        return False
    never = scores.constant(2)
    return never is not None and bool(np.all(np.isneginf(never)))


def _is_open(softmax: Node, known: Mapping[Value, Places]) -> bool:
    scores, axis = softmax.inputs[0], softmax.attributes.get("axis", -1)
    if scores is None or scores not in known or not scores.type.is_ranked or not isinstance(axis, int):
        return False
    return known[scores].opens(axis % scores.type.rank - scores.type.rank)


def _erase(graph: Graph, node: Node) -> None:
    """Remove a guard, and its test if nobody else reads that."""
    condition = node.inputs[0]
    graph.erase(node)
    test = None if condition is None else condition.producer
    if test is not None and test.operator == "IsNaN" and not test.output.uses and not graph.is_output(test.output):
        graph.erase(test)
