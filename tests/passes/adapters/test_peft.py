"""PEFT's files: what it wrote is read by module path, what is written it reads, and what can't be read is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import planish
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.passes.base import Feeds
from planish.passes.probes import run_graph

RANDOM = np.random.default_rng(5)
ARRAYS = {
    "base_model.model.net.body.wide.lora_A.weight": RANDOM.standard_normal((3, 8), np.float32),
    "base_model.model.net.body.wide.lora_B.weight": RANDOM.standard_normal((12, 3), np.float32),
    "base_model.model.net.stem.lora_A.weight": RANDOM.standard_normal((2, 4, 3, 3), np.float32),
    "base_model.model.net.stem.lora_B.weight": RANDOM.standard_normal((8, 2, 1, 1), np.float32),
}
CONFIG = {
    "peft_type": "LORA",
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["wide", "stem"],
    "rank_pattern": {"stem": 2},
    "alpha_pattern": {"stem": 1},
    "use_rslora": False,
    "use_dora": False,
}


def written(folder: Path, arrays: dict[str, np.ndarray] = ARRAYS, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder


def loaded(graph: Graph, folder: Path) -> Graph:
    return planish.optimize(graph, [{"load-lora": {"adapter": str(folder)}}]).graph


def test_an_adapter_is_put_onto_its_layers(source: Graph, data: list[Feeds], tmp_path: Path) -> None:
    graph = loaded(source, written(tmp_path / "adapter"))

    wide, wider, stem, stems = ARRAYS.values()
    merged = source.clone()
    merged.constants["u"].data = merged.constants["u"].data + 2 * (wider @ wide).T
    change = np.einsum("nr,rckl->nckl", stems[:, :, 0, 0], stem) / 2
    merged.constants["w"].data = merged.constants["w"].data + change
    assert drift(run_graph(merged, data), run_graph(graph, data)) < 1e-6


def test_what_is_written_is_what_was_read(source: Graph, tmp_path: Path) -> None:
    graph = loaded(source, written(tmp_path / "adapter"))
    for _ in range(2):  # the second time in its own place
        planish.save_adapter(graph, tmp_path / "again", base="a/model")

    arrays = load_file(tmp_path / "again/adapter_model.safetensors")
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())
    config = json.loads((tmp_path / "again/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 1.0)  # of the first layer
    assert config["rank_pattern"] == {"net.body.wide": 3}
    assert config["alpha_pattern"] == {"net.body.wide": 6.0}
    assert config["base_model_name_or_path"] == "a/model"
    feeds = {"x": np.ones((1, 4, 6, 6), np.float32)}
    (one, other) = (Interpreter(it).run(feeds)["y"] for it in (graph, loaded(source, tmp_path / "again")))
    np.testing.assert_array_equal(one, other)


def test_roots_of_ranks_scale_where_peft_says_so(source: Graph, data: list[Feeds], tmp_path: Path) -> None:
    arrays = {name: array for name, array in ARRAYS.items() if "wide" in name}
    plain, rooted = (
        loaded(source, written(tmp_path / str(root), arrays, lora_alpha=3 / np.sqrt(3) ** root, use_rslora=bool(root)))
        for root in (0, 1)
    )
    assert drift(run_graph(plain, data), run_graph(rooted, data)) < 1e-6


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        (ARRAYS, {"peft_type": "IA3"}, "its adapter is of the type IA3, and only LORA is read"),
        (ARRAYS, {"use_dora": True}, "needs a magnitude for each of its outputs if use_dora is true, or else none"),
        (
            {**ARRAYS, "base_model.model.head.bias": np.ones(3)},
            {},
            "more than low-rank weights and modules_to_save: base_model.model.h",
        ),
        ({"base_model.model.tail.lora_A.weight": np.ones((2, 3))}, {}, "the two weights of .*tail don't fit together"),
        (
            {f"base_model.model.tail.lora_{it}.weight": np.ones((2, 2)) for it in "AB"},
            {},
            "has weights for tail, but the model has no layer with a weight of that name",
        ),
        (
            {f"base_model.model.head.lora_{it}.weight": np.ones((2, 2)) for it in "AB"},
            {},
            r"the adapter for head fits a layer of \(inputs, outputs\) \(2, 2\), but the model's has \(12, 5\)",
        ),
    ],
)
def test_what_can_t_be_read_is_told(
    source: Graph, tmp_path: Path, arrays: dict[str, np.ndarray], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(source, written(tmp_path / "adapter", arrays, **config))


WHOLE = {f"base_model.model.head.{kind}": np.ones(shape, "f") for kind, shape in (("weight", (5, 12)), ("bias", (5,)))}


def test_layers_that_were_trained_as_a_whole_take_the_place_of_the_models_own(
    source: Graph, data: list[Feeds], tmp_path: Path
) -> None:
    folder = written(tmp_path / "adapter", {**ARRAYS, **WHOLE}, modules_to_save=["head"])
    result = planish.optimize(source, [{"load-lora": {"adapter": str(folder)}}])
    assert result.records[-1].result.counts == {"adapters": 2, "replaced": 1}
    assert result.records[-1].result.notes == ["the adapter's bias and weight of head took the place of the model's"]

    wanted = loaded(source, written(tmp_path / "plain"))
    wanted.constants["t"].data, wanted.constants["d"].data = 2 * np.ones((5, 12), "f"), np.ones(5, "f")  # alpha is 0.5
    assert drift(run_graph(wanted, data), run_graph(result.graph, data)) < 1e-6


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("head.weight", (5, 3), r"head has a weight of \(3, 5\) \(inputs, outputs\), and the model's has \(12, 5\)"),
        ("head.bias", (3,), "head has a bias of 3 numbers, and the model's has no such constant"),
        ("tail.weight", (5, 3), "has weights for tail, but the model has no layer with a weight of that name"),
        (
            "head.lora_embedding_A",
            (2, 3),
            "more than low-rank weights and modules_to_save: base_model.model.head.lora_e",
        ),
    ],
)
def test_layers_trained_as_a_whole_that_don_t_fit_are_told(
    source: Graph, tmp_path: Path, kind: str, shape: tuple[int, ...], message: str
) -> None:
    arrays = {f"base_model.model.{kind}": np.ones(shape, "f")}
    with pytest.raises(ModelError, match=message):
        loaded(source, written(tmp_path / "adapter", arrays, modules_to_save=["head", "tail"]))


def test_whole_layers_can_t_be_exchanged(source: Graph, tmp_path: Path) -> None:
    folder = written(tmp_path / "adapter", {**ARRAYS, **WHOLE}, modules_to_save=["head"])
    with pytest.raises(ModelError, match="its adapter replaces head, which can't be exchanged"):
        planish.read_adapter(folder, loaded(source, folder))


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS"])
def test_a_classifier_that_peft_wrote_computes_what_it_does_there(tmp_path: Path, task: str) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=32, **sizes)
    kind = {"SEQ_CLS": "BertForSequenceClassification", "TOKEN_CLS": "BertForTokenClassification"}[task]
    module, ids = getattr(transformers, kind)(config).eval(), torch.arange(16).reshape(2, 8)
    graph = planish.trace(module, (ids,))

    adapted = peft.get_peft_model(module, peft.LoraConfig(task_type=task, r=2, lora_alpha=8)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
        wanted = adapted(ids).logits.numpy()
    adapted.save_pretrained(tmp_path / "adapter")

    (got,) = Interpreter(loaded(graph, tmp_path / "adapter")).run({graph.inputs[0].name: ids.numpy()}).values()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    (plain,) = Interpreter(graph).run({graph.inputs[0].name: ids.numpy()}).values()
    assert np.abs(plain - wanted).max() > 0.1


def test_missing_and_broken_files_are_told(source: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="load-lora needs a folder that PEFT wrote"):
        planish.optimize(source, "load-lora")
    with pytest.raises(UsageError, match="has no adapter: it takes adapter_config.json"):
        loaded(source, tmp_path)
    (written(tmp_path / "adapter") / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="has a broken adapter"):
        loaded(source, tmp_path / "adapter")
    with pytest.raises(UsageError, match="the graph has no adapters"):
        planish.save_adapter(source, tmp_path / "new")
    (tmp_path / "adapter/notes.txt").touch()
    with pytest.raises(UsageError, match="holds something other than an adapter"):
        planish.save_adapter(planish.optimize(source, "lora{rank=2}").graph, tmp_path / "adapter")
