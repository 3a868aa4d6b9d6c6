"""How near models come to the speed-up that `prune-channels` is asked for, and what half of the operations is worth.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/speedup.py [MODEL...] [--backend onnxruntime] [--wanted 1.5 --wanted 2 --wanted 3]
    python benchmarks/speedup.py resnet50_224 vit_b_16 bert_base smollm2 --flops 0.5 [--backend tvm] [--times 3]

Eight models with random weights, one sample each, after clean-up and fusion: `resnet18`, `resnet50`, `mobilenet_v2`,
`squeezenet1_1` and `regnet_y_400mf` of torchvision on images of 128 x 128, `vit` (tiny, timm) on 224 x 224, and `bert`
and `llama` (six layers of 384 and 576 channels) on 64 tokens. What comes out is compiled anew and timed in turn with
the model before, five times, two threads unless OMP_NUM_THREADS says otherwise; the quotient is the median of these
times, with the least and the greatest, or of one time (`--times 1`) with the quartiles of its rounds. Norms choose the
channels, since there is nothing to lose: only times are looked at.

With `--flops` that share of the operations goes instead, whatever it is worth. Four more models have the sizes of real
ones: ResNet-50 and ViT-B/16 on images of 224 x 224, BERT-base and a Llama of SmolLM2-135M's sizes on 128 tokens.
"""

import os
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import typer
from torch import nn

import planish
from planish.backends import find_backend
from planish.driver.lowering import lower
from planish.driver.measurement import Ratio, interleaved
from planish.ir.analysis.cost import summarize
from planish.ir.errors import BudgetError
from planish.ir.graph import Graph
from planish.targets import Target
from planish.targets.load import load_target

TOKENS, PIXELS, VOCABULARY = 64, 128, 1000


class Model(StrEnum):
    """What is made faster."""

    RESNET18 = "resnet18"
    RESNET50 = "resnet50"
    MOBILENET = "mobilenet_v2"
    SQUEEZENET = "squeezenet1_1"
    REGNET = "regnet_y_400mf"
    VIT = "vit"
    BERT = "bert"
    LLAMA = "llama"
    RESNET50_224 = "resnet50_224"
    VIT_B_16 = "vit_b_16"
    BERT_BASE = "bert_base"
    SMOLLM2 = "smollm2"


SMALL = list(Model)[:8]


def main(
    models: Annotated[list[Model] | None, typer.Argument(help="The models; the eight small ones by default.")] = None,
    wanted: Annotated[list[float] | None, typer.Option(help="A speed-up to ask for; may be repeated.")] = None,
    backend: Annotated[str, typer.Option(help="The backend that runs the models.")] = "onnxruntime",
    flops: Annotated[float, typer.Option(help="The share of the operations that goes instead.")] = 0.0,
    times: Annotated[int, typer.Option(help="How often what comes out is compiled and timed.")] = 5,
) -> None:
    """Print what was asked for and what was measured."""
    target = replace(load_target("native"), threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    asked = [f"flops={flops:g}"] if flops else [f"speedup={speedup:g}" for speedup in wanted or (1.5, 2.0, 3.0)]
    for model in models or SMALL:
        torch.manual_seed(0)
        graph = planish.optimize(planish.trace(*_subject(model)), "cleanup,fuse").graph
        for option in asked:
            start = time.perf_counter()
            outcome = _outcome(graph, f"prune-channels{{{option}}}", backend, target, times)
            print(f"{model} {backend} {option}: {outcome} ({time.perf_counter() - start:.0f} s)", flush=True)


def _outcome(graph: Graph, steps: str, backend: str, target: Target, times: int) -> str:
    try:
        found = planish.optimize(graph, steps, target=target, backend=backend, verify="structure")
    except BudgetError as refusal:
        return f"refused: {refusal}"
    left = 100 * summarize(found.graph).flops / summarize(graph).flops
    notes = "; ".join((f"{left:.0f} % of the operations are left", *found.records[0].result.notes))
    return f"{_measured(graph, found.graph, backend, target, times)}; {notes}"


def _measured(before: Graph, after: Graph, backend: str, target: Target, times: int) -> str:
    random = np.random.default_rng(0)
    feeds = {
        it.name: random.standard_normal(it.type.static_shape).astype(np.float32)
        if it.dtype.is_float
        else random.integers(1, VOCABULARY, it.type.static_shape)
        for it in before.inputs
    }
    found: list[Ratio] = []
    for _ in range(times):
        with TemporaryDirectory() as work:
            models = [
                lower(it, find_backend(backend), target, Path(work, str(number))).executable
                for number, it in enumerate((before, after))
            ]
            first, second = interleaved([lambda model=it: model.run(feeds) for it in models])
        found.append(second.speedup_over(first))
    medians = [ratio.median for ratio in found]
    return str(found[0] if times == 1 else Ratio(float(np.median(medians)), min(medians), max(medians)))


def _subject(model: Model) -> tuple[nn.Module, Any]:
    if model is Model.VIT:
        import timm

        return timm.create_model("vit_tiny_patch16_224", num_classes=10).eval(), (torch.randn(1, 3, 224, 224),)
    if model in (Model.BERT, Model.BERT_BASE, Model.LLAMA, Model.SMOLLM2):
        return _of_text(model)
    from torchvision import models

    pixels = 224 if model in (Model.RESNET50_224, Model.VIT_B_16) else PIXELS
    module = models.get_model(model.removesuffix("_224"), weights=None)
    return module.eval(), (torch.randn(1, 3, pixels, pixels),)


def _of_text(model: Model) -> tuple[nn.Module, Any]:
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    if model in (Model.BERT, Model.BERT_BASE):
        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        config = BertConfig() if model is Model.BERT_BASE else BertConfig(vocab_size=VOCABULARY, **sizes)
        module = BertForSequenceClassification(config)
    else:
        layers, words = (30, 49152) if model is Model.SMOLLM2 else (6, VOCABULARY)
        sizes = {"hidden_size": 576, "num_hidden_layers": layers, "num_attention_heads": 9, "intermediate_size": 1536}
        tied = model is Model.SMOLLM2
        module = LlamaForCausalLM(
            LlamaConfig(vocab_size=words, num_key_value_heads=3, use_cache=False, tie_word_embeddings=tied, **sizes)
        )
    tokens = 128 if model in (Model.BERT_BASE, Model.SMOLLM2) else TOKENS
    return module.eval(), (torch.randint(1, VOCABULARY, (1, tokens)),)


if __name__ == "__main__":
    typer.run(main)
