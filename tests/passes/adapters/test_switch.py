"""Adapters as inputs: several on one quantized base, in both backends, exchanged by handing over other arrays."""

from pathlib import Path

import numpy as np
import pytest
from machine import without_saturation

import planish
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.passes.base import Feeds
from planish.targets.load import load_target

TARGET = without_saturation(load_target("x86-64-avx512-vnni"))


@pytest.mark.wide
def test_adapters_are_exchanged_on_a_quantized_base(source: Graph, data: list[Feeds], tmp_path: Path) -> None:
    base = planish.optimize(source, "quantize", data=data, target=TARGET, verify="structure").graph
    graph = planish.optimize(base, "lora{rank=3,alpha=6}", verify="structure").graph
    random = np.random.default_rng(3)
    for name, constant in graph.constants.items():
        if ".lora_B" in name:
            constant.data = 0.3 * random.standard_normal(constant.shape, np.float32)
    other = planish.optimize(source, "lora{rank=2,alpha=2,skip=head,start=pissa}", verify="structure").graph
    planish.save_adapter(other, tmp_path / "other")

    switchable, first = planish.adapter_inputs(graph)
    second = planish.read_adapter(tmp_path / "other", switchable)
    none = {name: np.zeros_like(array) for name, array in first.items()}

    assert first.keys() == second.keys() == {value.name for value in switchable.inputs[1:]}
    feeds = data[0]
    wanted = [Interpreter(switchable).run({**feeds, **weights}) for weights in (first, second, none)]
    np.testing.assert_array_equal(wanted[0]["y"], Interpreter(graph).run(feeds)["y"])
    np.testing.assert_array_equal(wanted[2]["y"], Interpreter(base).run(feeds)["y"])
    assert drift([wanted[1]], [wanted[2]]) > 0.1
    for backend in ("onnxruntime", "tvm"):
        executable = planish.compile(switchable, backend, TARGET if backend == "onnxruntime" else "native")
        for weights, expected in zip((first, second, none), wanted, strict=True):
            (found,) = executable({**feeds, **weights})
            assert drift([expected], [{"y": found}]) < 0.02, backend


def test_an_adapter_without_a_place_is_refused(source: Graph, tmp_path: Path) -> None:
    planish.save_adapter(planish.optimize(source, "lora{rank=4}").graph, tmp_path / "wide")
    narrow, _ = planish.adapter_inputs(planish.optimize(source, "lora{rank=2}").graph)
    with pytest.raises(ModelError, match=r"has \(36, 4\) and \(4, 8\), and the model takes \(36, 2\) and \(2, 8\)"):
        planish.read_adapter(tmp_path / "wide", narrow)
    part, _ = planish.adapter_inputs(planish.optimize(source, "lora{rank=4,skip=stem}").graph)
    with pytest.raises(ModelError, match="has weights for stem, but the model has no layer"):
        planish.read_adapter(tmp_path / "wide", part)
    with pytest.raises(UsageError, match="the graph has no adapters"):
        planish.adapter_inputs(source)
