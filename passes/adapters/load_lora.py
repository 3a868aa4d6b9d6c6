"""Adapters that PEFT has trained, put onto a graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Constant, Graph, Node
from ...ir.unused import drop_unused
from ..added_bias import added_bias
from ..base import Effect, Pass, PassContext, PassResult
from .adapter import add_adapter, gain, layer_sizes, matrix_of, replace_weight
from .dora import add_dora
from .peft import Weights, match_layers, read_peft


@dataclass(frozen=True)
class LoraLoading(Pass):
    """Put a LoRA adapter of Hugging Face's PEFT beside the layers that it was trained for, found by module path.

    Layers that were trained as a whole (PEFT's `modules_to_save`, such as a classifier's head) get its weights and
    biases in place of their own.

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
        trained = read_peft(folder)
        adapters = trained.adapters
        layers = {node: sizes for node in graph.nodes if (sizes := layer_sizes(node)) is not None}
        found = match_layers(list(layers), [*adapters, *trained.whole], folder)
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
        notes: list[str] = []
        for name, parameters in trained.whole.items():
            node = found[name]
            if context.selects(node):
                _replace(graph, node, parameters, f"{folder}: {name}")
                notes.append(
                    f"the adapter's {' and '.join(sorted(parameters))} of {name} took the place of the model's"
                )
        return PassResult({"adapters": count, "replaced": len(notes)}, notes=notes)


def _put(graph: Graph, node: Node, weights: Weights, name: str) -> None:
    """Put an adapter onto its layer."""
    if weights.magnitudes is None:
        add_adapter(graph, node, weights.down, weights.up, weights.scale, name)
    else:
        add_dora(graph, node, weights.down, weights.up, weights.scale, name, weights.magnitudes)


def _replace(graph: Graph, node: Node, parameters: Mapping[str, np.ndarray], name: str) -> None:
    """Give a layer the weight and the bias that were trained as a whole.

    Raises:
        ModelError: they don't fit the layer; `name` begins the message.
    """
    old, weight, bias = matrix_of(node), parameters.get("weight"), parameters.get("bias")
    if old is None:
        raise ModelError(
            f"{name} was trained as a whole, and the model's is no float constant: load it before rounding"
        )
    if weight is not None:
        matrix = weight.reshape(len(weight), -1).T
        if matrix.shape != old.shape:
            raise ModelError(
                f"{name} has a weight of {matrix.shape} (inputs, outputs), and the model's has {old.shape}: "
                "load an adapter of this model"
            )
        replace_weight(graph, node, matrix / gain(node))
    if bias is None:
        return
    place = (node, 2) if node.input(2) is not None else added_bias(node)
    held = None if place is None else place[0].input(place[1])
    if place is None or not isinstance(held, Constant) or held.data.size != bias.size:
        raise ModelError(f"{name} has a bias of {bias.size} numbers, and the model's has no such constant")
    reader, index = place
    scaled = bias / (reader.attributes.get("beta", 1.0) if reader.operator == "Gemm" else 1.0)
    array = scaled.astype(held.data.dtype).reshape(held.data.shape)
    graph.set_input(reader, index, graph.add_constant(array, held.name))
    drop_unused(graph, [held])
