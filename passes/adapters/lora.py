"""LoRA: adapters beside layers, to be trained alone."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge

from ...ir.graph import Graph, Node
from ..base import Effect, Pass, PassContext, PassResult
from .adapter import add_adapter, gain, layer_name, layer_sizes, matrix_of, replace_weight
from .dora import add_dora, all_adapters


@dataclass(frozen=True)
class Lora(Pass):
    """Put low-rank adapters beside linear layers and convolutions: `lora, fine-tune: {only: "*.lora_?"}` trains them.

    What the model computes stays, and so do its weights. Adapters are ordinary layers, named `LAYER.lora_A` and
    `LAYER.lora_B`; `quantize: {skip: "*.lora_?"}` leaves them in float. `merge-lora` folds them into their layers.

    Attributes:
        rank: the rank of each adapter: how many numbers are between its two layers.
        alpha: the number that, divided by the rank, scales what an adapter computes; 0 takes the rank itself.
        rslora: whether alpha is divided by the rank's square root instead (Kalajdzievski, "A Rank Stabilization Scaling
            Factor for Fine-Tuning with LoRA", 2023).
        start: what adapters begin with: nothing for `lora`, since the first layer is random and the second zero; for
            `pissa` the largest singular values of the layer's weight, which are taken out of it (Meng et al., "PiSSA:
            Principal Singular Values and Singular Vectors Adaptation of Large Language Models", NeurIPS 2024).
        dora: whether the size of each output's weights is trained apart from their direction, which the adapter turns
            (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024): `LAYER.lora_M` has the sizes. The
            adapter is part of its layer's weight, and folding constants merges it.
    """

    name: ClassVar[str] = "lora"
    effect: ClassVar[Effect] = Effect.ROUNDING

    rank: Annotated[int, Ge(1)] = 8
    alpha: Annotated[float, Ge(0)] = 0.0
    rslora: bool = False
    start: Literal["lora", "pissa"] = "lora"
    dora: bool = False

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        adapted = [adapter.layer for adapter in all_adapters(graph) if context.selects(adapter.layer)]
        misses = [f"{layer.location}: it has an adapter" for layer in adapted]
        layers = {node: sizes for node in graph.nodes if (sizes := layer_sizes(node)) is not None}
        readers = Counter(node.operand(1) for node in layers)
        generator = np.random.default_rng(context.seed)
        count = 0
        for node, sizes in layers.items():
            if not context.selects(node) or node in adapted:
                continue
            if self.rank > min(sizes):
                misses.append(
                    f"{node.location}: rank={self.rank} is more than its {sizes[0]} x {sizes[1]} weight can have: "
                    f"give {min(sizes)} at most"
                )
            elif readers[node.operand(1)] > 1:
                misses.append(f"{node.location}: other layers have the same weight")
            elif (what := self._decomposes()) and matrix_of(node) is None:
                misses.append(f"{node.location}: its weight is not a float constant, which {what} has to decompose")
            elif context.applies("adapter", node):
                self._adapt(graph, node, sizes, generator)
                count += 1
        return PassResult({"adapters": count}, misses)

    def _decomposes(self) -> str:
        """The option that needs a layer's weight as it is."""
        return "start=pissa" if self.start == "pissa" else "dora=true" if self.dora else ""

    def _adapt(self, graph: Graph, node: Node, sizes: tuple[int, int], generator: np.random.Generator) -> None:
        scale = (self.alpha or self.rank) / (math.sqrt(self.rank) if self.rslora else self.rank)
        bound = 1 / math.sqrt(sizes[0])
        down = generator.uniform(-bound, bound, (sizes[0], self.rank))
        up = np.zeros((self.rank, sizes[1]))
        matrix = matrix_of(node)
        if self.start == "pissa" and matrix is not None:
            left, values, right = np.linalg.svd(gain(node) * matrix.astype(np.float64), full_matrices=False)
            roots = np.sqrt(values[: self.rank] / scale)
            down, up = left[:, : self.rank] * roots, roots[:, None] * right[: self.rank]
            replace_weight(graph, node, matrix - scale / gain(node) * down @ up)
        (add_dora if self.dora else add_adapter)(graph, node, down, up, scale, layer_name(node))
