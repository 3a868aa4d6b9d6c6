"""An instrument: which operators came and went."""

import sys
from collections import Counter

from planish import Graph, Instrument, Pass, PassContext


class Census(Instrument):
    """Prints after each pass how many nodes of which operators there are more or fewer."""

    def start(self, graph: Graph, context: PassContext) -> None:
        """Note what the model comes with."""
        self._before = Counter(node.operator for node in graph.nodes)

    def ran(self, step: Pass, graph: Graph) -> None:
        """Print what a pass changed."""
        now = Counter(node.operator for node in graph.nodes)
        changes = [f"{now[name] - self._before[name]:+} {name}" for name in sorted(now | self._before)]
        told = ", ".join(change for change in changes if not change.startswith("+0 ")) or "the same operators"
        print(f"census after {step.name}: {told}", file=sys.stderr)
        self._before = now
