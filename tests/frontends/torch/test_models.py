"""Whole architectures with random weights agree with eager PyTorch, from one graph at several sizes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import planish
from planish.frontends.torch import trace
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify

models = pytest.importorskip("torchvision.models")
transformers = pytest.importorskip("transformers")


def is_close(found: np.ndarray, expected: Tensor) -> bool:
    """Whether an error is small beside what the inputs make of the outputs: with random weights that is little."""
    wanted = expected.numpy()
    spread = np.abs(wanted - wanted.mean(axis=0)).max()
    return bool(np.abs(found - wanted).max() <= 1e-3 * spread)


def settled(module: nn.Module, inputs: Tensor) -> nn.Module:
    """A module in evaluation whose batch norms know their inputs, or the signal of random weights would die away."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        module.train()(inputs)
    return module.eval()


def vision(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(models, name)(weights=None)


SLOW: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vit_b_16": (lambda: models.vit_b_16(weights=None, image_size=64), 64),
    "inception_v3": (lambda: models.inception_v3(weights=None, aux_logits=False, init_weights=False), 96),
    "googlenet": (lambda: models.googlenet(weights=None, init_weights=False), 64),
    "maxvit_t": (vision("maxvit_t"), 224),
    **{
        name: (vision(name), 64)
        for name in (
            "alexnet",
            "convnext_tiny",
            "densenet121",
            "efficientnet_b0",
            "efficientnet_v2_s",
            "mnasnet0_5",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "regnet_y_400mf",
            "resnext50_32x4d",
            "shufflenet_v2_x0_5",
            "squeezenet1_0",
            "swin_t",
            "swin_v2_t",
            "vgg11",
        )
    },
}


def check_vision(make: Callable[[], nn.Module], size: int) -> None:
    torch.manual_seed(0)
    module = settled(make(), torch.randn(4, 3, size, size))
    graph = trace(module, (torch.randn(2, 3, size, size),), dynamic_shapes=({0: Dim("batch")},))
    verify(graph)
    (image,) = graph.inputs
    for batch in (3, 2):
        x = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            expected = module(x)
        assert is_close(Interpreter(graph).run({image.name: x.numpy()})["output"], expected)


def test_vision_at_any_batch() -> None:
    check_vision(vision("resnet18"), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_more_vision_at_any_batch(name: str) -> None:
    check_vision(*SLOW[name])


@pytest.mark.slow
def test_a_convolutional_network_at_any_height_and_width() -> None:
    torch.manual_seed(0)
    module = settled(models.resnet18(weights=None), torch.randn(2, 3, 64, 96))
    sizes = {0: Dim("batch"), 2: Dim("height", min=33, max=512), 3: Dim("width", min=33, max=512)}
    graph = trace(module, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(sizes,))
    for shape in ((2, 3, 64, 96), (3, 3, 50, 33), (1, 3, 224, 65)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = module(x)
        found = Interpreter(graph).run({graph.inputs[0].name: x.numpy()})["output"]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


LONGEST = 128


def bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
        max_position_embeddings=LONGEST,
    )
    return transformers.BertModel(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=LONGEST,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize("make", [pytest.param(bert, marks=pytest.mark.wide), gpt2])
def test_text_at_any_batch_and_sequence(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()

    def inputs(batch: int, sequence: int) -> dict[str, Tensor]:
        mask = torch.ones(batch, sequence, dtype=torch.int64)
        mask[0, -1] = int(sequence == 1)
        return {"input_ids": torch.randint(1, 90, (batch, sequence)), "attention_mask": mask}

    sizes = {0: Dim("batch"), 1: Dim("sequence", max=LONGEST)}
    graph = trace(module, (), inputs(2, 7), dynamic_shapes={"input_ids": sizes, "attention_mask": sizes})
    verify(graph)
    assert [value.type.shape for value in graph.inputs] == [("batch", "sequence")] * 2
    assert next(iter(graph.outputs.values())).shape[:2] == ("batch", "sequence")
    executable = planish.compile(graph, backend="onnxruntime")
    for batch, sequence in ((2, 7), (3, 1), (1, 17), (2, LONGEST)):
        fed = inputs(batch, sequence)
        with torch.no_grad():
            expected = module(**fed).to_tuple()
        arrays = {name: tensor.numpy() for name, tensor in fed.items()}
        for found in (list(Interpreter(graph).run(arrays).values()), executable(**arrays)):
            for array, tensor in zip(found, expected, strict=True):
                np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)
