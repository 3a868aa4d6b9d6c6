"""Adapters that are exchanged at run time: their weights are inputs of the model, an adapter is arrays for these."""

from pathlib import Path

import numpy as np

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Constant, Graph
from .adapter import find_adapters, layer_sizes, stored
from .dora import find_dora
from .peft import match_layers, read_peft, write_peft


def adapter_inputs(graph: Graph) -> tuple[Graph, dict[str, np.ndarray]]:
    """A copy of a graph in which the weights of adapters are inputs, and the arrays that these were.

    It is compiled as any graph is: `executable({**batch, **weights})` runs it with an adapter.

    Raises:
        UsageError: it has no adapters whose weights are constants, or some of DoRA's, which are part of their layers.
    """
    if turned := next(find_dora(graph), None):
        raise UsageError(
            f"the adapter of {turned.name} is a DoRA, which is part of its layer's weight and can't be exchanged: "
            "merge it, or train one without dora"
        )
    copy, weights = graph.clone(), dict[str, np.ndarray]()
    for adapter in find_adapters(copy):
        for weight in adapter.weights:
            if not isinstance(weight, Constant):
                continue
            name, weights[weight.name] = weight.name, weight.data
            value = copy.add_input(copy.unique_name(name), weight.type)
            copy.replace_uses(weight, value)
            copy.erase_constant(weight)
            copy.rename(value, name)
    if not weights:
        raise UsageError("the graph has no adapters: put some onto it with `lora` or `load-lora`")
    return copy, weights


def read_adapter(folder: str | Path, graph: Graph) -> dict[str, np.ndarray]:
    """The weights of an adapter that PEFT or `save_adapter` wrote, as the inputs that a graph has for them.

    Layers for which the folder has no adapter get one of zeros. A lower rank than the graph's is filled with zeros.

    Raises:
        UsageError: there is no adapter in the folder.
        ModelError: it is broken, or the graph has no place for it.
    """
    folder = Path(folder)
    trained = read_peft(folder)
    given = trained.adapters
    if trained.whole:
        raise ModelError(
            f"{folder}: its adapter replaces {', '.join(trained.whole)}, which can't be exchanged: put it onto a model "
            "with load-lora"
        )
    if any(weights.magnitudes is not None for weights in given.values()):
        raise ModelError(
            f"{folder}: its adapter is a DoRA, which can't be exchanged: put it onto a model with load-lora"
        )
    places = {adapter.layer: adapter for adapter in find_adapters(graph)}
    found = match_layers(list(places), list(given), folder)
    named = {node: name for name, node in found.items()}
    arrays: dict[str, np.ndarray] = {}
    for layer, place in places.items():
        sizes = layer_sizes(layer)
        assert sizes is not None
        first, second = place.weights
        rank = first.type.static_shape[0 if layer.operator == "Conv" else 1]
        down, up = np.zeros((sizes[0], rank)), np.zeros((rank, sizes[1]))
        if layer in named:
            weights = given[named[layer]]
            own = weights.down.shape[1]
            if own > rank or (len(weights.down), weights.up.shape[1]) != sizes:
                raise ModelError(
                    f"{folder}: the adapter for {named[layer]} has {weights.down.shape} and {weights.up.shape}, "
                    f"and the model takes {down.shape} and {up.shape}"
                )
            down[:, :own], up[:own] = weights.down, weights.up * (weights.scale / place.scale)
        arrays |= dict(zip((first.name, second.name), stored(layer, down, up), strict=True))
    return arrays


def save_adapter(graph: Graph, folder: str | Path, base: str = "") -> None:
    """Write a graph's adapters into a folder as PEFT reads them.

    Args:
        graph: the graph with adapters.
        folder: the folder for `adapter_config.json` and `adapter_model.safetensors`; an adapter in it is replaced.
        base: the model that the adapters are for, as PEFT names it.

    Raises:
        UsageError: there are no adapters, the folder holds something else, or nothing may be written there.
    """
    write_peft(graph, Path(folder), base)
