"""Adapters that PEFT has trained, put onto a graph."""

from dataclasses import dataclass
from typing import ClassVar

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Graph, Node
from ..base import Effect, Pass, PassContext, PassResult
from .adapter import add_adapter, layer_sizes, matrix_of
from .dora import add_dora
from .peft import Weights, match_layers, read_peft


@dataclass(frozen=True)
class LoraLoading(Pass):
    """Put a LoRA adapter of Hugging Face's PEFT beside the layers that it was trained for, found by module path.

    Attributes:
        adapter: the folder with `adapter_config.json` and `adapter_model.safetensors`.
    """

    name: ClassVar[str] = "load-lora"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = float("inf")  # the model is to say something else

    adapter: str = ""

    def require(self, context: PassContext) -> None:
        if not self.adapter:
            raise UsageError(f"{self.name} needs a folder that PEFT wrote: {self.name}{{adapter=FOLDER}}")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        folder = context.folder / self.adapter
        adapters = read_peft(folder)
        layers = {node: sizes for node in graph.nodes if (sizes := layer_sizes(node)) is not None}
        found = match_layers(list(layers), list(adapters), folder)
        count = 0
        for name, weights in adapters.items():
            node = found[name]
            sizes = (len(weights.down), weights.up.shape[1])
            if sizes != layers[node]:
                raise ModelError(
                    f"{folder}: the adapter for {name} fits a layer of (inputs, outputs) {sizes}, but the model's has "
                    f"{layers[node]}: load an adapter of this model"
                )
            if weights.magnitudes is not None and matrix_of(node) is None:
                raise ModelError(
                    f"{folder} has a DoRA for {name}, whose weight is no float constant: load it before the model is "
                    "quantized"
                )
            if context.selects(node) and context.applies("adapter", node):
                _put(graph, node, weights, name)
                count += 1
        return PassResult({"adapters": count})


def _put(graph: Graph, node: Node, weights: Weights, name: str) -> None:
    """Put an adapter onto its layer."""
    if weights.magnitudes is None:
        add_adapter(graph, node, weights.down, weights.up, weights.scale, name)
    else:
        add_dora(graph, node, weights.down, weights.up, weights.scale, name, weights.magnitudes)
