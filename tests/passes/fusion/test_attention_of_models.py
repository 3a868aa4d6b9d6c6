"""Attention is found in every layer of widespread architectures, as torch.export gives them, and computes the same."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import planish

transformers = pytest.importorskip("transformers")

IDS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones(2, 7, dtype=torch.long)
SEEN[1, 5:] = 0
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MELS = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0))

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 100, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"image_size": 32, "patch_size": 8}
GPT2 = {
    "vocab_size": 100,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WHISPER = {
    "vocab_size": 100,
    "d_model": 32,
    **{
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    },
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
T5 = {
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

Inputs = dict[str, Tensor]
MODELS: dict[str, tuple[str, dict[str, Any], Inputs, int]] = {
    "bert": ("Bert", {**SIZES, **TEXT}, {"input_ids": IDS, "attention_mask": SEEN}, 2),
    "vit": ("ViT", {**SIZES, **VISION}, {"pixel_values": IMAGES}, 2),
    "gpt2": ("GPT2", GPT2, {"input_ids": IDS}, 2),
    "gpt2 with padding": ("GPT2", GPT2, {"input_ids": IDS, "attention_mask": SEEN}, 2),
    "llama": ("Llama", {**SIZES, **TEXT, "num_key_value_heads": 2}, {"input_ids": IDS, "attention_mask": SEEN}, 2),
    "qwen2": ("Qwen2", {**SIZES, **TEXT, "num_key_value_heads": 2}, {"input_ids": IDS}, 2),
    "whisper": ("Whisper", WHISPER, {"input_features": MELS, "decoder_input_ids": IDS}, 6),
    "t5": ("T5", T5, {"input_ids": IDS, "attention_mask": SEEN, "decoder_input_ids": IDS}, 6),
    "clip": (
        "CLIP",
        {"text_config": {**SIZES, **TEXT}, "vision_config": {**SIZES, **VISION}, "projection_dim": 16},
        {"input_ids": IDS, "pixel_values": IMAGES},
        4,
    ),
}


class First(nn.Module):
    """A model of which the first output is returned."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        options = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        return self.model(**dict(zip(self.names, tensors, strict=True)), **options)[0]


def build(name: str, attention: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    kind, sizes, inputs, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation=attention)
    return First(getattr(transformers, f"{kind}Model")(config), list(inputs)).eval(), tuple(inputs.values())


DIFFERENT = {"bert": "sdpa", "llama": "eager"}
"""Models, and ways to compute their attention, as one of which it is spelled in all others."""
WAYS = [
    pytest.param(name, way, marks=[] if DIFFERENT.get(name) == way else [pytest.mark.wide])
    for name in MODELS
    for way in ("sdpa", "eager")
]


@pytest.mark.parametrize(("name", "attention"), WAYS)
def test_every_layer(name: str, attention: str) -> None:
    module, inputs = build(name, attention)
    graph = planish.optimize(planish.trace(module, inputs), "cleanup,fuse").graph
    operators = Counter(node.operator for node in graph.nodes)
    assert (operators["Attention"], operators["Softmax"]) == (MODELS[name][3], 0)
    assert operators["RotaryEmbedding"] == (4 if name in ("llama", "qwen2") else 0)
    executable = planish.compile(graph, backend="onnxruntime", target="native")
    with torch.no_grad():
        wanted = module(*inputs).numpy()
    np.testing.assert_allclose(executable(*(tensor.numpy() for tensor in inputs))[0], wanted, rtol=1e-4, atol=1e-4)


class Attending(nn.Module):
    """torch's own attention, with the weights that it returns unless one asks it not to."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


TORCHS_OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "with weights": (Attending, (2, 7, 32), 1),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2, enable_nested_tensor=False
        ),
        (2, 7, 32),
        2,
    ),
    "torchvision's ViT": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 48), (1, 3, 32, 32), 2),
}


@pytest.mark.parametrize("name", TORCHS_OWN)
def test_every_layer_of_torchs_own(name: str) -> None:
    """No transposes take heads apart, although the sequence comes first inside of them."""
    build, shape, layers = TORCHS_OWN[name]
    torch.manual_seed(0)
    module, x = build().eval(), torch.randn(shape)
    graph = planish.optimize(planish.trace(module, (x,)), "cleanup,fuse").graph
    operators = Counter(node.operator for node in graph.nodes)
    assert (operators["Attention"], operators["Softmax"]) == (layers, 0)
    assert all("q_num_heads" in node.attributes for node in graph.nodes if node.operator == "Attention")
    with torch.no_grad():
        wanted = module(x).numpy()
    executable = planish.compile(graph, backend="onnxruntime", target="native")
    np.testing.assert_allclose(executable(x.numpy())[0], wanted, rtol=1e-4, atol=1e-4)
