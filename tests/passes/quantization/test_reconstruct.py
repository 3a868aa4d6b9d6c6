"""Reconstruction fits convolutions to what rounding makes of what they read."""

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Node
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.probes import run_graph
from planish.passes.quantization.quantize import Quantize
from planish.passes.quantization.reconstruct import _Sums
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")


def array(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.3).astype(np.float32)


def pages(count: int, channels: int = 16) -> np.ndarray:
    """Images that have the same values, one for each channel, at nine pixels of ten."""
    background, text = array(1, channels, 1, 1), RNG.random((count, 1, 16, 16)) < 0.1
    return np.where(text, 3 * array(count, channels, 16, 16), background)


def mixtures(count: int, channels: int = 16) -> np.ndarray:
    """Images whose channels are mixtures of three, so that weights can make up for each other's errors."""
    return np.einsum("nkhw,kc->nchw", array(count, 3, 16, 16), array(3, channels)) + 0.1 * array(1, channels, 1, 1)


def network(kind: str) -> Graph:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 16, 16, 16)))
    wide, pads = (16, 16, 3, 3), (1, 1, 1, 1)
    inner = op.HardSwish(op.Conv(x, array(16, 16, 1, 1), array(16)))
    inner = {
        "windows": lambda: op.Conv(inner, array(*wide), array(16), pads=pads),
        "strided": lambda: op.Conv(inner, array(*wide), array(16), pads=pads, strides=(2, 2), dilations=(2, 2)),
        "grouped": lambda: op.Conv(inner, array(16, 4, 3, 3), array(16), pads=pads, group=4),
        "depthwise": lambda: op.Conv(inner, array(16, 1, 3, 3), array(16), pads=pads, group=16),
    }[kind]()
    graph.outputs["y"] = op.Conv(op.HardSwish(inner), array(8, 16, 1, 1), array(8))
    return graph


def errors(kind: str, drawn: np.ndarray, bits: int = 8) -> tuple[float, float]:
    """The squared errors on other images, with and without, before the result is rounded itself."""
    source = network(kind)
    images = [{"x": batch} for batch in drawn.reshape(12, 4, 16, 16, 16)]
    exact = run_graph(source, images[8:])

    def error(*, reconstruct: bool) -> float:
        graph = source.clone()
        found = Quantize(reconstruct=reconstruct, weight_bits=bits).run(graph, PassContext(TARGET, source, images[:8]))
        verify(graph)
        assert reconstruct == ("reconstructed" in found.counts)
        assert not reconstruct or found.counts["reconstructed"] > 1
        graph.outputs["y"] = graph.outputs["y"].producer.inputs[0].producer.inputs[0]
        pairs = zip(exact, run_graph(graph, images[8:]), strict=True)
        return sum(float(np.square(one["y"] - other["y"]).sum()) for one, other in pairs)

    return error(reconstruct=True), error(reconstruct=False)


@pytest.mark.parametrize("kind", ["windows", "strided", "grouped", "depthwise"])
def test_outputs_on_other_images_are_nearer_to_the_float_models(kind: str) -> None:
    fitted, plain = np.sum([errors(kind, pages(12 * 4)) for _ in range(3)], axis=0)
    assert fitted < 0.97 * plain


@pytest.mark.parametrize("kind", ["windows", "grouped"])
def test_weights_of_4_bits_make_up_for_each_others_errors(kind: str) -> None:
    fitted, plain = np.sum([errors(kind, mixtures(12 * 4), bits=4) for _ in range(3)], axis=0)
    assert fitted < 0.75 * plain


def test_weights_that_others_share_stay() -> None:
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, ("batch", 16, 16, 16)))
    weight, bias = source.add_constant(array(16, 16, 1, 1), "w"), source.add_constant(array(16), "b")
    source.outputs["y"] = op.Conv(op.Tanh(op.Conv(x, weight, bias)), weight, bias)
    graph = source.clone()
    images = [{"x": batch} for batch in pages(8 * 4).reshape(8, 4, 16, 16, 16)]
    found = Quantize().run(graph, PassContext(TARGET, source, images))
    verify(graph)
    assert found.counts["reconstructed"] == 0


@pytest.mark.parametrize(("count", "size", "fitted"), [(3, 1, False), (1, 32, True), (2, 16, True)])
def test_of_few_batches_samples_are_held_out_if_there_are_enough(count: int, size: int, fitted: bool) -> None:
    source = network("windows")
    graph = source.clone()
    images = [{"x": batch} for batch in pages(count * size).reshape(count, size, 16, 16, 16)]
    found = Quantize().run(graph, PassContext(TARGET, source, images))
    verify(graph)
    assert (found.counts["reconstructed"] > 0) == fitted


@pytest.mark.parametrize("noise", [0, 1e-4, 1e-2])
def test_what_varies_no_more_than_float32_rounds_can_be_rounded_for(noise: float) -> None:
    made, held = torch.from_numpy(array(1, 2000, 8)), torch.from_numpy(np.abs(100 * array(1, 1, 500)))
    read = torch.cat([held + noise * torch.from_numpy(array(1, 2000, 500)), torch.ones(1, 2000, 1)], 2)
    sums = _Sums(*(part.double() for part in (read.mT @ read, read.mT @ made, made.square().sum(1))))
    weights, scale = torch.from_numpy(array(1, 500, 8)).double(), torch.full((1, 1, 8), 0.1).double()
    codes = sums.rounded(weights, scale, 4)
    assert codes.abs().max() <= 7
    assert (codes - weights / scale).abs().mean() < 1


@pytest.mark.parametrize("threads", [1, 2])
def test_groups_with_hundreds_of_inputs_are_fitted_on_any_number_of_threads(threads: int) -> None:
    read, made = torch.from_numpy(array(8, 400, 257)).double(), torch.from_numpy(array(8, 400, 4)).double()
    read[:, :, -1] = 1
    sums, before = _Sums(read.mT @ read, read.mT @ made, made.square().sum(1)), torch.zeros(8, 257, 4).double()
    given = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        best = sums.best(before)
    finally:
        torch.set_num_threads(given)
    for moved in (best + 0.01, best - 0.01):
        assert (sums.error(best) < sums.error(moved)).all()
    assert (sums.error(best) < 0.5 * sums.error(before)).all()


def test_what_doesnt_vary_is_fitted_where_rounded_sums_have_no_root() -> None:
    made, held = torch.from_numpy(array(1, 1000, 8) + 1), torch.from_numpy(np.abs(100 * array(1, 1, 2000)))
    read = torch.cat([held.expand(1, 1000, 2000), torch.ones(1, 1000, 1)], 2)
    sums = _Sums(*(part.double() for part in (read.mT @ read, read.mT @ made, made.square().sum(1))))
    best = sums.best(torch.zeros(1, 2001, 8).double())
    wanted = made.double().var(1, correction=0) * 1000  # all that no constant explains
    assert torch.allclose(sums.error(best), wanted.flatten(), rtol=1e-3)


@pytest.mark.parametrize("held", [1e-30, 2.7])
def test_moments_that_are_nothing_but_rounding_can_be_rounded_for(held: float) -> None:
    """Sums of the same number over all windows are off by more than the share that counts as nothing."""
    count, rest = 1_000_000.0, 1 + 1e-4 * (held > 1)
    inputs = torch.full((1, 4, 4), count * held**2 / rest, dtype=torch.float64)
    inputs[:, 3, :3] = inputs[:, :3, 3] = count * held
    inputs[:, 3, 3] = count
    if held < 1:
        inputs[:, :3, :3] = 0  # squares that float32 doesn't hold
    sums = _Sums(inputs, torch.zeros(1, 4, 8).double(), torch.zeros(1, 8).double())
    weights, scale = torch.from_numpy(array(1, 3, 8)).double(), torch.full((1, 1, 8), 0.1).double()
    codes = sums.rounded(weights, scale, 8)
    assert codes.isfinite().all()
    assert (codes - weights / scale).abs().mean() < 1


def test_what_was_pruned_stays_zero() -> None:
    source = network("windows")
    for constant in list(source.constants.values()):
        if constant.data.ndim == 4:
            constant.data.setflags(write=True)
            constant.data[np.abs(constant.data) < 0.2] = 0
    graph = source.clone()
    images = [{"x": batch} for batch in pages(8 * 4).reshape(8, 4, 16, 16, 16)]
    found = Quantize(equalize=False).run(graph, PassContext(TARGET, source, images))
    assert found.counts["reconstructed"]
    pairs = zip(convolutions(source), convolutions(graph), strict=True)
    assert all(not layer.operand(1).producer.constant(0)[plain.constant(1) == 0].any() for plain, layer in pairs)


@pytest.mark.parametrize("bits", [8, 4])
def test_channels_that_write_nothing_have_scales_that_divide(bits: int) -> None:
    source = network("windows")
    for constant in source.constants.values():
        constant.data.setflags(write=True)
        constant.data[:3] = 0
        constant.data[1] = 1e-39  # which no grid holds
    graph = source.clone()
    images = [{"x": batch} for batch in mixtures(8 * 4).reshape(8, 4, 16, 16, 16)]
    found = Quantize(equalize=False, weight_bits=bits).run(graph, PassContext(TARGET, source, images))
    assert found.counts["reconstructed"]
    floats = [constant for constant in graph.constants.values() if constant.dtype.is_float]
    assert all((constant.data > 0).all() and np.isfinite(constant.data).all() for constant in floats)


def test_infinite_numbers_fit_nothing() -> None:
    source = network("windows")
    graph = source.clone()
    images = [{"x": batch} for batch in pages(8 * 4).reshape(8, 4, 16, 16, 16)]
    images[0]["x"][0, 0, 0, 0] = np.inf
    found = Quantize().run(graph, PassContext(TARGET, source, images))
    verify(graph)
    assert found.counts["reconstructed"] == 0


def convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.operator == "Conv"]
