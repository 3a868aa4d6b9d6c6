"""Which nodes a pass may touch: the globs of its options `only` and `skip`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Self

from ..ir.graph import Node


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of nodes by globs on the module path of their layer, their operator, or the names of their outputs.

    Attributes:
        rows: pairs of `only` and `skip`. For every pair, a selected node matches some glob of `only`, unless there is
            none, and no glob of `skip`.
        barred: names of outputs whose nodes are left as they are.
    """

    rows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    barred: frozenset[str] = frozenset()

    def narrowed(self, only: Sequence[str], skip: Sequence[str]) -> Self:
        """The selection, narrowed by these globs, too."""
        return replace(self, rows=(*self.rows, (tuple(only), tuple(skip))))

    def without(self, outputs: Iterable[str]) -> Self:
        """The selection without the nodes that have some outputs, given by name."""
        return replace(self, barred=self.barred.union(outputs))

    def __contains__(self, node: Node) -> bool:
        if self.barred and any(output.name in self.barred for output in node.outputs):
            return False
        if not self.rows:
            return True
        names = _names(node)

        def matches(globs: Sequence[str]) -> bool:
            return any(fnmatchcase(name, glob) for name in names for glob in globs)

        return all((not only or matches(only)) and not matches(skip) for only, skip in self.rows)

    def unmatched(self, nodes: Iterable[Node]) -> list[str]:
        """The globs that match none of the given nodes."""
        left = list(dict.fromkeys(glob for row in self.rows for globs in row for glob in globs))
        for node in nodes if left else ():
            names = _names(node)
            left = [glob for glob in left if not any(fnmatchcase(name, glob) for name in names)]
        return left


def _names(node: Node) -> tuple[str, ...]:
    return node.location.module, node.operator, *(output.name for output in node.outputs)
