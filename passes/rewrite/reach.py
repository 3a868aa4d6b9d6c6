"""What may match anew after a replacement: as far as the deepest pattern reaches from what changed, and no further."""

from collections import Counter
from collections.abc import Iterable, Sequence

from ...ir.graph import Node, Value
from .pattern import Result, applications, choices
from .rule import RewriteRule


class Reach:
    """How far the patterns of some rules reach.

    A new match has a node that is new, reads another value, or whose output somebody stopped reading. So the roots of
    new matches are found by going down from such nodes, through operators that patterns have above their roots.
    Where a pattern has several results, the way to the first may lead up from another and down again.
    """

    def __init__(self, rules: Sequence[RewriteRule]) -> None:
        found = applications([result for rule in rules for result in rule.results])
        self._depth = max(found.values(), default=0)
        self._inner = {application.operator for application, depth in found.items() if depth > 1}
        inner = [choice for application in found for operand in application.operands for choice in choices(operand)]
        reads = Counter(operand.application for operand in inner if isinstance(operand, Result))
        self._most_reads = max(reads.values(), default=1)
        self._turns = max((len(rule.ways) for rule in rules), default=0)

    def nodes(self, changed: Iterable[Node], left: Iterable[Value]) -> Iterable[Node]:
        """The nodes at which a pattern may match that didn't before.

        Args:
            changed: nodes that are new, or read another value than they did.
            left: values that have lost a reader; what is read by more nodes than any pattern has for it still doesn't
                match.
        """
        seeds = dict.fromkeys(changed)
        for value in left:
            if value.producer is not None and len(value.uses) <= self._most_reads:
                seeds |= dict.fromkeys((value.producer, *(use.node for use in value.uses)))
        found = self._below(seeds)
        for _ in range(self._turns):
            found = self._below(self._beside(found))
        return found

    def _below(self, nodes: Iterable[Node]) -> dict[Node, None]:
        """Nodes, and the nodes below them whose patterns may contain them."""
        found = dict.fromkeys(nodes)
        level: Iterable[Node] = list(found)
        for _ in range(self._depth - 1):
            outputs = (output for node in level if node.operator in self._inner for output in node.outputs)
            level = dict.fromkeys(use.node for value in outputs for use in value.uses if use.node not in found)
            found |= level
        return found

    def _beside(self, nodes: Iterable[Node]) -> dict[Node, None]:
        """Nodes, and those that read the same values, or values that are above these in a pattern."""
        found = dict.fromkeys(nodes)
        values: dict[Value, None] = {}
        level: Iterable[Node] = list(found)
        for _ in range(self._depth):
            read = dict.fromkeys(
                value for node in level for value in node.inputs if value is not None and value not in values
            )
            values |= read
            producers = (value.producer for value in read)
            level = [node for node in producers if node is not None and node.operator in self._inner]
        return found | dict.fromkeys(use.node for value in values for use in value.uses)
