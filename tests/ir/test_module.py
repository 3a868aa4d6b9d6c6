"""A graph as a torch module: it computes what the interpreter computes, and what it learns goes back into the graph."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.module import to_module, update_constants
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType

TEXT = """\
graph "g"(%x: float32[batch, 4], %mask: bool[batch, 4]) {
  const %w: float32[4, 3] = [0.1, -0.2, 0.3, 0.4, 0.5, -0.6, 0.7, 0.8, 0.9, 1.0, 1.1, -1.2]
  const %k: int64[1] = [2]
  const %end: float32[] = 0.5
  const %slice: int64[1] = [1]
  const %zero: int32[] = 0
  const %one: int32[] = 1
  %s: int64[2] = Shape(%x)
  %size: int64[] = Size(%x)
  %until: int32[] = Cast(%size) {to = 6}
  %range: int32[4 * batch] = Range(%zero, %until, %one)
  %fill: float32[batch, 4] = ConstantOfShape(%s) {value = float32[1] [2.5]}
  %m: float32[batch, 4] = Where(%mask, %x, %fill)
  %c: float32[batch, 4] = Clip(%m, none, %end)
  %h: float32[batch, 3] = MatMul(%c, %w)
  %e: float32[batch, 3] = Elu(%h) {alpha = inf}
  %top: float32[batch, 2], %at: int64[batch, 2] = TopK(%h, %k)
  return top = %top, at = %at, e = %e, range = %range, again = %top, w = %w, x = %x
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT)


def feeds(batch: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(batch)
    return {
        "x": generator.standard_normal((batch, 4)).astype(np.float32),
        "mask": generator.standard_normal((batch, 4)) > 0,
    }


@pytest.mark.parametrize("training", [False, True])
def test_a_module_computes_what_the_interpreter_does(graph: Graph, training: bool) -> None:
    module = to_module(graph, training=training)
    for batch in (1, 5):
        fed = feeds(batch)
        results = module(*map(torch.from_numpy, fed.values()))
        expected = Interpreter(graph).run(fed)
        assert len(results) == len(expected)
        for result, array in zip(results, expected.values(), strict=True):
            np.testing.assert_array_equal(result.detach().numpy(), array)


def test_a_module_can_be_copied(graph: Graph) -> None:
    fed = [torch.from_numpy(array) for array in feeds(2).values()]
    module = to_module(graph)
    for result, again in zip(module(*fed), copy.deepcopy(module)(*fed), strict=True):
        assert torch.equal(result, again)


def test_floats_are_parameters_and_share_the_graphs_memory(graph: Graph) -> None:
    module = to_module(graph)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    assert [tuple(parameter.shape) for parameter in parameters.values()] == [(4, 3), ()]
    assert {buffer.dtype for buffer in buffers.values()} == {torch.int64, torch.int32}
    assert not any(parameter.requires_grad for parameter in parameters.values())
    weight = next(iter(parameters.values()))
    assert np.shares_memory(weight.detach().numpy(), graph.constants["w"].data)


def train(module: nn.Module, steps: int = 1) -> float:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    fed = [torch.from_numpy(array) for array in feeds(8).values()]
    loss = torch.tensor(0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module(*fed)[0].square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_training_leaves_the_graph_alone_until_it_is_told(graph: Graph) -> None:
    arrays = {name: constant.data for name, constant in graph.constants.items()}
    before = {name: array.copy() for name, array in arrays.items()}
    module = to_module(graph, training=True)
    assert train(module, 5) < train(to_module(graph, training=True))
    for name, array in arrays.items():
        assert graph.constants[name].data is array
        np.testing.assert_array_equal(array, before[name])

    twin = graph.clone()
    changed = update_constants(graph, module)
    assert changed == 2  # the weight, and the bound of the clip
    assert not np.array_equal(graph.constants["w"].data, before["w"])
    np.testing.assert_array_equal(arrays["w"], before["w"])
    np.testing.assert_array_equal(twin.constants["w"].data, before["w"])
    fed = feeds(3)
    trained = module(*map(torch.from_numpy, fed.values()))[0].detach().numpy()
    np.testing.assert_array_equal(Interpreter(graph).run(fed)["top"], trained)


def test_what_was_written_back_is_cut_off_from_further_training(graph: Graph) -> None:
    module = to_module(graph, training=True)
    train(module)
    update_constants(graph, module)
    written = graph.constants["w"].data.copy()
    train(module)
    np.testing.assert_array_equal(graph.constants["w"].data, written)


def test_what_did_not_change_stays_the_array_it_is(graph: Graph) -> None:
    graph.constants["end"].data = np.array(np.nan, np.float32)
    arrays = {name: constant.data for name, constant in graph.constants.items()}
    assert update_constants(graph, to_module(graph, training=True)) == 0
    assert all(graph.constants[name].data is array for name, array in arrays.items())


def test_half_precision_weights_come_back_as_they_were() -> None:
    graph = Graph()
    op = Builder(graph)
    weight = np.ones(3, DType.bfloat16.numpy)
    graph.outputs["y"] = op.Mul(graph.add_input("x", TensorType(DType.bfloat16, (3,))), weight)
    module = to_module(graph, training=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    assert update_constants(graph, module) == 1
    (constant,) = graph.constants.values()
    assert constant.data.dtype == weight.dtype
    assert constant.data.astype(np.float32).tolist() == [2, 2, 2]


def test_quantized_floats_are_not_trained() -> None:
    graph = Graph()
    op = Builder(graph)
    weight = op.constant(np.ones(3, DType.float4_e2m1fn.numpy))
    scale = op.constant(np.ones((), DType.float8_e8m0fnu.numpy))
    y = op.DequantizeLinear(weight, scale, output_dtype=DType.float32)
    graph.outputs["y"] = op.Mul(graph.add_input("x", TensorType(DType.float32, (3,))), y)
    module = to_module(graph, training=True)
    assert not list(module.parameters())
    assert update_constants(graph, module) == 0
    assert module(torch.ones(3))[0].tolist() == [1, 1, 1]


def quantized(dtype: DType) -> Graph:
    return parse_graph(f"""\
graph "g"(%x: float32[4]) {{
  const %w: float32[4] = [1.0, 2.0, 3.0, 4.0]
  const %scale: float32[] = 0.5
  const %zero: {dtype}[] = {"0" if dtype.is_integer else "0.0"}
  %p: float32[4] = Mul(%x, %w)
  %q: {dtype}[4] = QuantizeLinear(%p, %scale, %zero)
  %y: float32[4] = DequantizeLinear(%q, %scale, %zero)
  return y = %y
}}
""")


@pytest.mark.parametrize("dtype", [DType.int8, DType.int4, DType.float8_e5m2, DType.float4_e2m1fn], ids=str)
def test_rounding_passes_gradients_straight_through_while_training(dtype: DType) -> None:
    graph = quantized(dtype)
    x = torch.tensor([0.13, 0.27, -0.41, 0.55])
    module = to_module(graph, training=True)
    module(x)[0].sum().backward()
    gradient = next(module.parameters()).grad
    assert gradient is not None
    torch.testing.assert_close(gradient, x)
    np.testing.assert_allclose(module(x)[0].detach(), to_module(graph)(x)[0])


def network() -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of layers that sum few and many products, of numbers on a grid, and of float64; and inputs."""
    generator = np.random.default_rng(0)
    normal = partial(generator.standard_normal, dtype=np.float32)
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 8, 6, 6)))
    graph.outputs["depthwise"] = op.Conv(x, normal((8, 1, 3, 3)), normal(8), group=8)
    graph.outputs["dense"] = op.Relu(op.Conv(x, normal((4, 8, 3, 3)), normal(4)))
    graph.outputs["rows"] = op.Gemm(op.Flatten(x), normal((288, 5)), normal(5))
    grid = op.DequantizeLinear(op.QuantizeLinear(x, np.float32(0.01)), np.float32(0.01))
    graph.outputs["grid"] = op.MatMul(grid, normal((6, 4)))
    codes = np.full((5, 1, 8), 0x4B, np.uint8)
    sizes = {"K": 6, "N": 5, "block_size": 16}
    graph.outputs["few"] = op("com.microsoft::MatMulNBits", x, codes, normal((5, 1)), None, None, normal(5), **sizes)
    graph.outputs["halves"] = op.MatMul(op.Cast(x, to=DType.float64), normal((6, 2)).astype(np.float64))
    return graph, {"x": normal((3, 8, 6, 6))}


def test_long_sums_are_of_products_in_the_type_that_is_asked_for() -> None:
    graph, fed = network()
    inputs = [torch.from_numpy(array) for array in fed.values()]
    exact = to_module(graph, training=True)(*inputs)
    module = to_module(graph, training=True, products=torch.bfloat16)
    found = module(*inputs)

    for name, one, rounded in zip(graph.outputs, exact, found, strict=True):
        assert rounded.dtype == one.dtype
        is_left = name in {"depthwise", "grid", "halves"}  # a short sum, a grid, and another type
        assert torch.equal(one, rounded) == is_left
        torch.testing.assert_close(rounded, one, rtol=0.02, atol=0.02 * float(one.detach().abs().max()))
    sum(output.sum() for output in found).backward()
    assert all(it.grad is not None and it.grad.dtype == it.dtype for it in module.parameters())
