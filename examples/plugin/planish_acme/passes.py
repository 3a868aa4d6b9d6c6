"""Passes that write squared ReLUs (So et al., "Primer: Searching for Efficient Transformers", NeurIPS 2021)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt

from planish import Builder, Effect, Graph, Pass, PassContext, PassResult, RewriteRule

fuse_squared_relu = RewriteRule(
    "fuse-squared-relu",
    pattern=lambda op, x: op.Mul(op.Relu(x), op.Relu(x)),
    replacement=lambda op, x: op("acme::SquaredRelu", x),
    effect=Effect.ROUNDING,
    description="Write acme::SquaredRelu where a Relu is multiplied by itself.",
)


@dataclass(frozen=True)
class SquareActivations(Pass):
    """Replace every Relu by its square; train the model afterwards, with `distill`.

    Attributes:
        gain: what the square is multiplied by.
    """

    name: ClassVar[str] = "square-activations"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = float("inf")
    gain: Annotated[float, Gt(0)] = 1.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph in place."""
        count = 0
        for node in graph.nodes:
            if node.operator != "Relu" or not context.applies("square", node):
                continue
            op = Builder(graph, before=node, location=node.location)
            graph.replace_uses(node.output, op("acme::SquaredRelu", node.inputs[0], gain=self.gain))
            graph.erase(node)
            count += 1
        return PassResult({"square": count})
