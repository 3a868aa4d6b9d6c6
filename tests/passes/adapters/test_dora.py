"""DoRA: nothing changes before training, sizes are trained apart from directions, and PEFT computes the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import planish
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.adapters.dora import find_dora
from planish.passes.base import Feeds, PassContext
from planish.passes.pipeline import parse_pipeline
from planish.passes.probes import run_graph
from planish.passes.training.fine_tune import FineTuning
from planish.targets.load import load_target

NAMES = ["stem", "body.point", "body.wide", "head"]


def applied(pipeline: str, graph: Graph, data: Any = (), **surroundings: Any) -> Any:
    (step,) = parse_pipeline(pipeline)
    result = step.apply(graph, PassContext(load_target("x86-64"), graph.clone(), data, **surroundings))
    verify(graph)
    return result


def moved(one: Graph, other: Graph, data: list[Feeds]) -> float:
    return drift(*(run_graph(graph, data) for graph in (one, other)))


def adapted(source: Graph, options: str = "rank=2,alpha=4", skip: str = "") -> Graph:
    """A network with adapters that do something."""
    graph = source.clone()
    applied(f"lora{{dora=true,{options}{skip and f',skip={skip}'}}}", graph)
    random = np.random.default_rng(2)
    for adapter in find_dora(graph):
        adapter.up.data = 0.3 * random.standard_normal(adapter.up.data.shape, np.float32)
        adapter.sizes.data = adapter.sizes.data * random.uniform(0.5, 2, adapter.sizes.data.shape).astype("f")
    return graph


@pytest.mark.parametrize("options", ["rank=4", "rank=4,start=pissa", "rank=5,start=pissa,alpha=2,rslora=true"])
def test_what_the_model_computes_stays(source: Graph, data: list[Feeds], options: str) -> None:
    source.constants["u"].data = source.constants["u"].data * (np.arange(12) > 0)  # an output without weights
    graph = source.clone()

    assert applied(f"lora{{dora=true,{options}}}", graph).counts == {"adapters": 4}

    assert moved(source, graph, data) < 1e-6
    assert [adapter.name for adapter in find_dora(graph)] == NAMES
    found = {adapter.name: adapter.magnitudes for adapter in find_dora(graph)}
    np.testing.assert_allclose(found["stem"], np.linalg.norm(source.constants["w"].data.reshape(8, -1), axis=1), 1e-5)
    np.testing.assert_allclose(found["head"], np.linalg.norm(source.constants["t"].data, axis=1) / 2, 1e-5)


def test_weights_are_of_the_size_that_is_set_and_turned_by_the_product(source: Graph, data: list[Feeds]) -> None:
    graph, expected = adapted(source), source.clone()
    for adapter, name in zip(find_dora(graph), "wvut", strict=True):
        whole = source.constants[name].data.reshape(len(source.constants[name].data), -1)
        whole = whole if name == "u" else whole.T
        gained = 0.5 if name == "t" else 1
        down, up = adapter.matrices
        turned = gained * whole + adapter.scale * down @ up
        weight = adapter.magnitudes * turned / np.linalg.norm(turned, axis=0) / gained
        expected.constants[name].data = (weight if name == "u" else weight.T).reshape(expected.constants[name].shape)
        assert adapter.scale == 2

    assert moved(source, graph, data) > 0.1
    assert moved(expected, graph, data) < 1e-6


@pytest.mark.parametrize("pipeline", ["merge-lora", "fold-constants"])
def test_merging_and_folding_leave_the_layers_alone(source: Graph, data: list[Feeds], pipeline: str) -> None:
    graph = adapted(source)
    merged = graph.clone()

    applied(pipeline, merged)

    assert moved(graph, merged, data) < 1e-6
    assert [node.operator for node in merged.nodes] == [node.operator for node in source.nodes]
    assert sum(it.data.size for it in merged.constants.values()) == sum(
        it.data.size for it in source.constants.values()
    )


def test_part_of_the_adapters_may_be_merged(source: Graph, data: list[Feeds]) -> None:
    graph = adapted(source)
    merged = graph.clone()
    applied("merge-lora{only=body.*}", merged)
    assert [adapter.name for adapter in find_dora(merged)] == ["stem", "body.point", "head"]
    assert moved(graph, merged, data) < 1e-6


def test_adapters_alone_are_trained_sizes_among_them(source: Graph, data: list[Feeds]) -> None:
    """The truth is what a model computes that has adapters of its own."""
    taught, graph = adapted(source), source.clone()
    applied("lora{rank=4,dora=true}", graph)
    before = {name: constant.data for name, constant in graph.constants.items()}
    truth = [outputs["y"] for outputs in run_graph(taught, data)]

    step = FineTuning(epochs=40, only=("*.lora_?",))
    assert step.apply(graph, PassContext(load_target("x86-64"), source, data, labels=truth)).changed

    assert moved(taught, graph, data[-1:]) < 0.5 * moved(taught, source, data[-1:])
    same = {name for name, array in before.items() if np.array_equal(graph.constants[name].data, array)}
    assert same == {name for name in before if not name.endswith(tuple(f"lora_{part}.weight" for part in "ABM"))}


def test_layers_with_an_adapter_or_without_a_float_weight_are_told(source: Graph, data: list[Feeds]) -> None:
    graph = adapted(source)
    misses = applied("lora{rank=2,only=body.*,required=false}", graph).misses
    assert misses == ["body.wide: it has an adapter"]
    base = planish.optimize(source, "quantize", data=data, target="x86-64-avx512-vnni").graph
    (miss, *_) = applied("lora{rank=2,dora=true,required=false}", base).misses
    assert miss.endswith("its weight is not a float constant, which dora=true has to decompose")


def test_what_is_written_is_what_is_read(source: Graph, data: list[Feeds], tmp_path: Path) -> None:
    graph, base = adapted(source), source.clone()
    planish.save_adapter(graph, tmp_path / "adapter")

    applied(f"load-lora{{adapter={tmp_path / 'adapter'}}}", base)

    assert moved(graph, base, data) < 1e-6
    arrays = load_file(tmp_path / "adapter/adapter_model.safetensors")
    sizes = {name: array.shape for name, array in arrays.items() if name.endswith("lora_magnitude_vector")}
    shapes = [(1, 8, 1, 1), (1, 8, 1, 1), (12,), (5,)]
    assert sizes == {f"base_model.model.{it}.lora_magnitude_vector": s for it, s in zip(NAMES, shapes, strict=True)}

    quantized = planish.optimize(source, "quantize", data=data, target="x86-64-avx512-vnni").graph
    with pytest.raises(ModelError, match="has a DoRA for .*, whose weight is no float constant: load it before"):
        applied(f"load-lora{{adapter={tmp_path / 'adapter'}}}", quantized)
    save_file({name: it for name, it in arrays.items() if "stem.lora_magn" not in name}, tmp_path / "some")
    (tmp_path / "some").replace(tmp_path / "adapter/adapter_model.safetensors")
    with pytest.raises(ModelError, match="stem needs a magnitude for each of its outputs if use_dora is true"):
        applied(f"load-lora{{adapter={tmp_path / 'adapter'}}}", source)


def test_what_can_t_be_exchanged_or_written_together_is_told(source: Graph, tmp_path: Path) -> None:
    graph = adapted(source, skip="stem")
    planish.save_adapter(graph, tmp_path / "adapter")
    with pytest.raises(UsageError, match="the adapter of body.point is a DoRA, which is part of its layer's weight"):
        planish.adapter_inputs(graph)
    plain, _ = planish.adapter_inputs(planish.optimize(source, "lora{rank=2}").graph)
    with pytest.raises(ModelError, match="its adapter is a DoRA, which can't be exchanged"):
        planish.read_adapter(tmp_path / "adapter", plain)
    applied("lora{rank=2,only=stem}", graph)
    with pytest.raises(UsageError, match="can't hold adapters with dora=true beside others"):
        planish.save_adapter(graph, tmp_path / "adapter")


def test_peft_computes_the_same(tmp_path: Path) -> None:
    torch, transformers, peft = map(pytest.importorskip, ("torch", "transformers", "peft"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=8, **sizes, attn_implementation="eager")
    model, ids = transformers.BertModel(config, add_pooling_layer=False).eval(), torch.arange(8).reshape(2, 4)
    graph = planish.trace(model, (ids,))
    options = {"r": 3, "lora_alpha": 6, "alpha_pattern": {"query": 1}, "target_modules": ["query", "dense"]}
    tuned = peft.get_peft_model(model, peft.LoraConfig(**options, use_dora=True))
    for path, weight in tuned.named_parameters():
        if "lora_" in path:
            weight.data += torch.randn_like(weight)
    tuned.save_pretrained(tmp_path / "adapter")
    feeds = [{value.name: ids.numpy() for value in graph.inputs}]
    (name,) = graph.outputs
    expected = [{name: tuned(ids)[0].detach().numpy()}]

    loaded = planish.optimize(graph, [{"load-lora": {"adapter": str(tmp_path / "adapter")}}]).graph

    assert len(list(find_dora(loaded))) == 4
    assert drift(expected, run_graph(loaded, feeds)) < 1e-5
    assert drift(expected, run_graph(planish.optimize(loaded, "merge-lora").graph, feeds)) < 1e-5
    assert drift(expected, run_graph(graph, feeds)) > 0.1
    planish.save_adapter(loaded, tmp_path / "again")
    again = peft.PeftModel.from_pretrained(tuned.unload(), tmp_path / "again")
    assert drift(expected, [{name: again(ids)[0].detach().numpy()}]) < 1e-5
