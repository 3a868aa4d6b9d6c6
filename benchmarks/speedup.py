"""How near models come to the speed-up that `prune-channels` is asked for.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/speedup.py [MODEL...] [--backend onnxruntime] [--wanted 1.5 --wanted 2 --wanted 3]

Eight models with random weights, one sample each, after clean-up and fusion: `resnet18`, `resnet50`, `mobilenet_v2`,
`squeezenet1_1` and `regnet_y_400mf` of torchvision on images of 128 x 128, `vit` (tiny, timm) on 224 x 224, and `bert`
and `llama` (six layers of 384 and 576 channels) on 64 tokens. What comes out is compiled anew and timed in turn with
the model before, five times, two threads unless OMP_NUM_THREADS says otherwise; the quotient is the median of these
times, with the least and the greatest. Norms choose the channels, since there is nothing to lose: only times are
looked at.
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
from planish.ir.errors import BudgetError
from planish.ir.graph import Graph
from planish.targets.load import load_target

TOKENS, PIXELS, VOCABULARY = 64, 128, 1000
TIMES = 5
"""How often what comes out is compiled and timed."""


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


def main(
    models: Annotated[list[Model] | None, typer.Argument(help="Which; all by default.")] = None,
    wanted: Annotated[list[float] | None, typer.Option(help="Speed-ups.")] = None,
    backend: Annotated[str, typer.Option(help="That runs them.")] = "onnxruntime",
) -> None:
    """Print what was asked for and what was measured."""
    target = replace(load_target("native"), threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    for model in models or list(Model):
        torch.manual_seed(0)
        graph = planish.optimize(planish.trace(*_subject(model)), "cleanup,fuse").graph
        for speedup in wanted or (1.5, 2.0, 3.0):
            start = time.perf_counter()
            steps = f"prune-channels{{speedup={speedup}}}"
            try:
                found = planish.optimize(graph, steps, target=target, backend=backend, verify="structure")
            except BudgetError as refusal:
                outcome = f"refused: {refusal}"
            else:
                outcome = f"{_measured(graph, found.graph, backend, target)}; {found.records[0].result.notes[0]}"
            print(f"{model} {backend} {speedup:g}: {outcome} ({time.perf_counter() - start:.0f} s)", flush=True)


def _measured(before: Graph, after: Graph, backend: str, target: Any) -> str:
    random = np.random.default_rng(0)
    feeds = {
        it.name: random.standard_normal(it.type.static_shape).astype(np.float32)
        if it.dtype.is_float
        else random.integers(1, VOCABULARY, it.type.static_shape)
        for it in before.inputs
    }
    found: list[float] = []
    for _ in range(TIMES):
        with TemporaryDirectory() as work:
            models = [
                lower(it, find_backend(backend), target, Path(work, str(number))).executable
                for number, it in enumerate((before, after))
            ]
            first, second = interleaved([lambda model=it: model.run(feeds) for it in models])
        found.append(second.speedup_over(first).median)
    return str(Ratio(float(np.median(found)), min(found), max(found)))


def _subject(model: Model) -> tuple[nn.Module, Any]:
    image, ids = torch.randn(1, 3, PIXELS, PIXELS), torch.randint(1, VOCABULARY, (1, TOKENS))
    if model is Model.VIT:
        import timm

        return timm.create_model("vit_tiny_patch16_224", num_classes=10).eval(), (torch.randn(1, 3, 224, 224),)
    if model is Model.BERT:
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes)).eval(), (ids,)
    if model is Model.LLAMA:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 576, "num_hidden_layers": 6, "num_attention_heads": 9, "intermediate_size": 1536}
        config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=3, use_cache=False, **sizes)
        return LlamaForCausalLM(config).eval(), (ids,)
    from torchvision import models

    return models.get_model(model.value, weights=None).eval(), (image,)


if __name__ == "__main__":
    typer.run(main)
