"""Adapters in the files of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`.

Weights have the names `base_model.model.LAYER.lora_A.weight` and `...lora_B.weight`, as torch's layers hold them:
`[rank, inputs]` and `[outputs, rank]`; DoRA adds `...lora_magnitude_vector`, `[outputs]`. Modules that were trained as
a whole (`modules_to_save`, to which PEFT adds the head of every classifier) have the names of their parameters, as in
`base_model.model.LAYER.weight`. Files that torch has pickled are not read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.drafts import beside, put
from ...ir.errors import ModelError, UsageError
from ...ir.files import RefusedFileError, open_regular, writing
from ...ir.graph import Constant, Graph, Node
from .adapter import DOWN, UP, Adapter, find_adapters, layer_name, stored
from .dora import DoraAdapter, find_dora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SIZE = ".lora_magnitude_vector"
_LARGEST = 1 << 24
"""The most bytes of the configuration."""


@dataclass(frozen=True, slots=True)
class Weights:
    """An adapter of a layer.

    Attributes:
        down: the first weight, shape [inputs, rank].
        up: the second weight, shape [rank, outputs].
        scale: the factor on the product of the two.
        magnitudes: the norm of each column of the layer's weight, shape [outputs]; None where it isn't set.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float
    magnitudes: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What a folder of PEFT's holds, by the module paths of layers.

    Attributes:
        adapters: the adapters.
        whole: the parameters of layers that were trained as a whole, by their own names: `weight` and `bias`, as torch
            holds them.
    """

    adapters: Mapping[str, Weights]
    whole: Mapping[str, Mapping[str, np.ndarray]]


def read_peft(folder: Path) -> Trained:
    """The adapters and whole layers in a folder.

    Raises:
        UsageError: there are no such files.
        ModelError: they are broken, or of a kind that isn't supported; it says what is.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        with open_regular(folder / CONFIG) as file:
            config: dict[str, Any] = json.loads(file.read(_LARGEST))
        open_regular(folder / WEIGHTS).close()
        arrays = load_file(folder / WEIGHTS)
    except RefusedFileError as error:
        raise UsageError(f"{folder} has no adapter: it takes {CONFIG} and {WEIGHTS} ({error})") from error
    except (ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} has a broken adapter: {error}") from error
    if fault := _fault(config, arrays):
        raise ModelError(f"{folder}: {fault}")
    names = [key.removesuffix(f"{DOWN}.weight") for key in arrays if key.endswith(f"{DOWN}.weight")]
    whole: dict[str, dict[str, np.ndarray]] = {}
    for key in _whole(config, arrays):
        layer, _, kind = key.removeprefix(_PREFIX).rpartition(".")
        whole.setdefault(layer, {})[kind] = arrays[key]
    return Trained({name.removeprefix(_PREFIX): _weights(name, arrays, config, folder) for name in names}, whole)


def _whole(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The keys of parameters of modules that were trained as a whole."""
    saved = [f".{module}." for module in config.get("modules_to_save") or ()]
    kinds = (".weight", ".bias")
    return [key for key in arrays if ".lora_" not in key and key.endswith(kinds) and any(it in key for it in saved)]


def _fault(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """What isn't supported of an adapter; empty where all is."""
    if config.get("peft_type") != "LORA":
        return f"its adapter is of the type {config.get('peft_type')}, and only LORA is read"
    known = {key for key in arrays if key.endswith((f"{DOWN}.weight", f"{UP}.weight", _SIZE))}
    others = sorted(arrays.keys() - known - {*_whole(config, arrays)})
    return f"its adapter has more than low-rank weights and modules_to_save: {', '.join(others[:3])}" if others else ""


def _weights(name: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], folder: Path) -> Weights:
    down, up = arrays[f"{name}{DOWN}.weight"], arrays.get(f"{name}{UP}.weight")
    if up is None or up.ndim < 2 or up.shape[1] != len(down):
        raise ModelError(f"{folder}: the two weights of {name} don't fit together")
    layer = name.removeprefix(_PREFIX)
    alpha = float(_of(layer, config.get("alpha_pattern"), config.get("lora_alpha", len(down))))
    root = math.sqrt(len(down)) if config.get("use_rslora") else len(down)
    sizes = arrays.get(f"{name}{_SIZE}")
    if (sizes is None) == bool(config.get("use_dora")) or (sizes is not None and sizes.size != len(up)):
        raise ModelError(
            f"{folder}: {name} needs a magnitude for each of its outputs if use_dora is true, or else none"
        )
    magnitudes = None if sizes is None else sizes.reshape(-1)
    return Weights(down.reshape(len(down), -1).T, up.reshape(len(up), -1).T, alpha / root, magnitudes)


def _of(layer: str, pattern: Any, default: Any) -> Any:
    """A layer's own setting, given for the end of its path as in PEFT's `alpha_pattern`; otherwise the default."""
    given: Mapping[str, Any] = pattern or {}
    return next((value for key, value in given.items() if layer == key or layer.endswith(f".{key}")), default)


def match_layers(layers: Sequence[Node], names: Sequence[str], folder: Path) -> dict[str, Node]:
    """The layers that weights belong to: their paths are the same, or end alike, where a model is part of another.

    Raises:
        ModelError: there is none, or more than one.
    """
    named: dict[str, list[Node]] = {}
    for node in layers:
        named.setdefault(layer_name(node), []).append(node)
    found: dict[str, Node] = {}
    for name in names:
        alike = [it for it in named if it == name] or [
            it for it in named if it.endswith(f".{name}") or name.endswith(f".{it}")
        ]
        nodes = [node for it in alike for node in named[it]]
        if len(nodes) != 1:
            which = f"{len(nodes)} layers" if nodes else "no layer with a weight"
            raise ModelError(f"{folder} has weights for {name}, but the model has {which} of that name")
        found[name] = nodes[0]
    return found


def write_peft(graph: Graph, folder: Path, base: str = "") -> None:
    """Write a graph's adapters as PEFT reads them; a folder that has some is replaced.

    Args:
        graph: the graph with adapters.
        folder: the folder for the two files.
        base: the model that the adapters are for, as PEFT names it.

    Raises:
        UsageError: there are no adapters, the folder holds something else, or nothing may be written there.
    """
    turned, adapters = list(find_dora(graph)), list(find_adapters(graph))
    held = [adapter for adapter in adapters if all(isinstance(weight, Constant) for weight in adapter.weights)]
    if not (turned or held):
        raise UsageError(f"there is nothing to write into {folder}: the graph has no adapters")
    if turned and adapters:
        raise UsageError(f"{folder} can't hold adapters with dora=true beside others, as the graph has: merge one kind")
    folder = folder.resolve()
    if folder.exists() and not {file.name for file in folder.iterdir()} <= {CONFIG, WEIGHTS, "README.md"}:
        raise UsageError(f"{folder} holds something other than an adapter: name another folder, or empty it")
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as draft, writing(folder):
        _write(turned or held, draft / folder.name, base)
        put(draft / folder.name, folder)


def _write(adapters: Sequence[Adapter | DoraAdapter], folder: Path, base: str) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for adapter in adapters:
        is_conv = adapter.layer.operator == "Conv"
        for array, part in zip(stored(adapter.layer, *adapter.matrices), (DOWN, UP), strict=True):
            arrays[f"{_PREFIX}{adapter.name}{part}.weight"] = np.ascontiguousarray(array if is_conv else array.T)
        if isinstance(adapter, DoraAdapter):
            spread = (1, -1, *(1,) * (adapter.layer.operand(1).type.rank - 2)) if is_conv else (-1,)
            arrays[f"{_PREFIX}{adapter.name}{_SIZE}"] = adapter.magnitudes.reshape(spread)
    ranks = {adapter.name: len(arrays[f"{_PREFIX}{adapter.name}{DOWN}.weight"]) for adapter in adapters}
    alphas = {adapter.name: adapter.scale * ranks[adapter.name] for adapter in adapters}
    rank, alpha = ranks[adapters[0].name], alphas[adapters[0].name]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base or None,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": isinstance(adapters[0], DoraAdapter),
    }
    folder.mkdir()
    save_file(arrays, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
