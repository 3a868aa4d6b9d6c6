"""Branches that are never taken are dropped, and those that always are become part of the graph around them."""

from dataclasses import dataclass
from typing import ClassVar

from ...ir.graph import Constant, Graph, Node, nested
from ..base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True)
class DeadBranchRemoval(Pass):
    """Replace an If whose condition is known by what is in the branch that it takes."""

    name: ClassVar[str] = "drop-dead-branches"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        from ...ir.reinfer import reinfer  # brings torch, which listing the passes must not

        count, are_narrower = 0, True
        while are_narrower:  # than the types that hold whichever branch is taken, by which other conditions are known
            dropped, are_narrower = self._drop(graph, context)
            count += dropped
            if are_narrower:
                reinfer(graph, is_strict=False)
        return PassResult({"branch": count})

    def _drop(self, graph: Graph, context: PassContext) -> tuple[int, bool]:
        """Drop what is known to be dead; returns how many branches were taken, and whether any has narrower results."""
        count, are_narrower = 0, False
        for part in reversed(tuple(nested(graph))):
            for node in part.nodes:
                branch = _taken(node)
                if branch is None or not context.applies("branch", node):
                    continue
                results = list(branch.outputs.values())
                part.splice(branch, node)
                for old, new in zip(node.outputs, results, strict=True):
                    are_narrower |= old.type is not new.type
                    part.replace_uses(old, new)
                part.erase(node)
                count += 1
        return count, are_narrower


def _taken(node: Node) -> Graph | None:
    """The branch that an If always takes."""
    if node.operator != "If":
        return None
    from ...ir.contents import contents

    condition = node.operand(0)
    known = condition.data.item() if isinstance(condition, Constant) else (contents(condition) or (None,))[0]
    if known is None:
        return None
    branch = node.attributes["then_branch" if known else "else_branch"]
    assert isinstance(branch, Graph)
    return branch
