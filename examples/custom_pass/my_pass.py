"""A pass of one's own, in a pipeline as `my_pass:SoftmaxRemoval`."""

from planish import Effect, Graph, Pass, PassContext, PassResult


class SoftmaxRemoval(Pass):
    """Return logits instead of probabilities: whoever takes the most likely class needs no softmax."""

    name, effect, max_drift = "remove-softmax", Effect.LOSSY, float("inf")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        last = {key: out.producer for key, out in graph.outputs.items() if out.producer.operator == "Softmax"}
        graph.outputs |= {key: node.inputs[0] for key, node in last.items()}
        return PassResult({"softmax": len(last)})
