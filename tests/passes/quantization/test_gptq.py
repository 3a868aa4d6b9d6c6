"""GPTQ: less error than rounding on correlated inputs, whatever the blocks; rounding where it does better."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import planish
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.quantization.awq import Awq
from planish.passes.quantization.directions import Directions
from planish.passes.quantization.gptq import Gptq, compensation, gptq, round_in_order
from planish.passes.quantization.sweep import Moments
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-vnni")
LAYERS = """(%x: float32[rows, 40]) {
  const %w: float32[40, 48]
  const %v: float32[24, 48]
  const %b: float32[24]
  %a: float32[rows, 48] = MatMul(%x, %w) @ "first"
  %c: float32[rows, 48] = Relu(%a) @ "first"
  %y: float32[rows, 24] = Gemm(%c, %v, %b) {transB = 1} @ "second"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def correlated(rows: int, k: int) -> np.ndarray:
    """Inputs of a few directions and some noise, as activations of networks are, with channels of unequal size."""
    return (normal(rows, 6) @ MIXING[:, :k] + 0.1 * normal(rows, k)) * np.geomspace(0.1, 3, k, dtype=np.float32)


MIXING = normal(6, 96)


@pytest.fixture
def layers(graph_of) -> Graph:
    return graph_of(LAYERS, {"w": normal(40, 48), "v": normal(24, 48), "b": normal(24)})


def batches(count: int = 8) -> list[Mapping[str, np.ndarray]]:
    return [{"x": correlated(64, 40)} for _ in range(count)]


def applied(step: planish.Pass, graph: Graph, calibration: list[Mapping[str, np.ndarray]]) -> PassResult:
    result = step.apply(graph, PassContext(TARGET, graph.clone(), calibration=calibration))
    verify(graph)
    return result


def moments_of(x: np.ndarray) -> np.ndarray:
    return x.T @ x / len(x)


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(1, 96), n=st.sampled_from([1, 9, 32, 70]), bits=st.integers(2, 8),
    block=st.sampled_from([16, 32, 128]), rows=st.integers(0, 40), symmetric=st.booleans(),
    activation_order=st.booleans(), sideways=st.booleans(),
)  # fmt: skip
def test_codes_are_on_the_grid_whatever_the_sizes(
    k: int, n: int, bits: int, block: int, symmetric: bool, activation_order: bool, rows: int, sideways: bool
) -> None:
    """Fewer rows than channels, or none, make moments that have no inverse; what was pruned stays so."""
    weight, x = normal(k, n), correlated(rows, k)
    moments = moments_of(x) if rows else np.zeros((k, k), np.float32)
    weight[RNG.random((k, n)) < 0.2] = 0
    weight[0, 0] = 1  # whatever was pruned, something is left
    scheme, outputs = BlockScheme(bits, block, symmetric), moments_of(normal(max(rows, 1), n)) if sideways else None
    found = gptq(weight, scheme, moments, outputs, activation_order=activation_order, damping=0.01)
    assert found.codes.shape == (k, n)
    assert not found.floats[weight == 0].any()
    assert found.codes.max() < scheme.codes > found.zero_points.max()
    assert found.scales.shape == (-(-k // block), n)
    assert np.abs(found.floats - weight).max() < 10 * np.abs(weight).max()


@pytest.mark.parametrize(("bits", "block"), [(2, 32), (3, 32), (4, 16), (4, 128)])
@pytest.mark.parametrize("activation_order", [False, True])
def test_outputs_are_closer_than_rounding_makes_them(bits: int, block: int, activation_order: bool) -> None:
    weight, scheme = normal(96, 20), BlockScheme(bits, block)
    fit, other = correlated(500, 96), correlated(200, 96)
    found = gptq(weight, scheme, moments_of(fit), activation_order=activation_order, damping=0.01)
    errors = [np.square(other @ (made.floats - weight)).sum() for made in (found, BlockWeight.over(weight, scheme))]
    assert errors[0] < 0.8 * errors[1]


def test_the_largest_channels_are_rounded_least_in_activation_order() -> None:
    """They come first, where the grid alone makes errors; the channels behind take up what is left."""
    weight, x = normal(96, 200), normal(2000, 96)
    x[:, 60:] *= 10
    x += x[:, -1:]
    errors = {}
    for activation_order in (False, True):
        found = gptq(weight, BlockScheme(3, 32), moments_of(x), activation_order=activation_order, damping=0.01)
        errors[activation_order] = np.square(x @ (found.floats - weight)).sum()
    assert errors[True] < errors[False]


def joint_error(change: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> float:
    return float(np.vdot(change, inputs @ change @ outputs))


@pytest.mark.parametrize("n", [64, 90])
def test_columns_make_up_for_one_another_where_outputs_cannot_tell_them_apart(n: int) -> None:
    """On directions that it hasn't seen, too, as it knows a fifth of them."""
    weight, inputs, scheme = normal(96, n), moments_of(correlated(500, 96)), BlockScheme(3, 32)
    directions = normal(1000, n // 5) @ normal(n // 5, n) + 0.1 * normal(1000, n)
    fit, other = moments_of(directions[:500]), moments_of(directions[500:])
    alone, together = (
        gptq(weight, scheme, inputs, outputs, activation_order=True, damping=0.01).floats - weight
        for outputs in (None, fit)
    )
    assert joint_error(together, inputs, other) < 0.6 * joint_error(alone, inputs, other)


def test_columns_that_have_nothing_in_common_are_rounded_on_their_own() -> None:
    weight, inputs = normal(96, 70), moments_of(correlated(500, 96))
    outputs = np.diag(np.geomspace(0.1, 10, 70)).astype(np.float32)
    alone, together = (
        gptq(weight, BlockScheme(4, 32), inputs, moments, activation_order=True, damping=0.01).codes
        for moments in (None, outputs)
    )
    assert (alone == together).mean() > 0.999


def test_a_model_that_sums_channels_up_computes_closer_to_what_it_did(graph_of) -> None:
    text = """(%x: float32[rows, 40]) {
      const %w: float32[40, 512]
      const %v: float32[512, 4]
      %a: float32[rows, 512] = MatMul(%x, %w)
      %b: float32[rows, 4] = MatMul(%a, %v)
      %y: float32[rows, 4] = Neg(%b)
      return y = %y
    }"""
    source = graph_of(text, {"w": normal(40, 512), "v": np.tile(np.eye(4, dtype=np.float32), (128, 1))})
    held_out, data, drifts = {"x": correlated(200, 40)}, [{"x": correlated(8, 40)} for _ in range(64)], {}
    for sideways in (False, True):
        graph = source.clone()
        assert applied(Gptq(bits=3, block=16, sideways=sideways), graph, data).counts["gptq"] > 0
        drifts[sideways] = drift([Interpreter(source).run(held_out)], [Interpreter(graph).run(held_out)])
    assert drifts[True] < 0.7 * drifts[False]


def test_inputs_without_correlation_are_rounded_to_the_nearest_code() -> None:
    weight, scheme = normal(64, 5), BlockScheme(4, 32)
    found = gptq(weight, scheme, np.eye(64, dtype=np.float32), activation_order=True, damping=0.01)
    steps = np.repeat(found.scales, 32, axis=0)
    inside = (found.codes > 0) & (found.codes < 15)
    assert np.abs(found.floats - weight)[inside].max() <= 0.5001 * steps.max()


@pytest.mark.parametrize("block", [16, 32])
def test_a_graph_computes_closer_to_what_it_did(layers: Graph, block: int) -> None:
    """The block of 32 leaves shorter ones at the ends of columns of 40 and 48."""
    source, held_out = layers.clone(), {"x": correlated(200, 40)}
    made = {}
    for name, step in {"gptq": Gptq(bits=3, block=block), "plain": Planted(bits=3, block=block)}.items():
        graph = source.clone()
        result = applied(step, graph, batches())
        assert name == "plain" or result.counts["gptq"] == 2, result
        made[name] = drift([Interpreter(source).run(held_out)], [Interpreter(graph).run(held_out)])
    assert made["gptq"] < 0.8 * made["plain"]


def test_a_layer_makes_up_for_the_errors_of_those_before(graph_of) -> None:
    """Without an activation between two layers, the second one can take back all that is rounded in the first."""
    linear = LAYERS.replace('  %c: float32[rows, 48] = Relu(%a) @ "first"\n', "").replace("%c", "%a")
    source = graph_of(linear, {"w": normal(40, 48), "v": normal(24, 48), "b": normal(24)})
    held_out, data, drifts = {"x": normal(200, 40)}, [{"x": normal(64, 40)} for _ in range(32)], {}
    for asymmetry in (0, 0.25, 1):
        graph = source.clone()
        applied(Gptq(bits=4, block=16, asymmetry=asymmetry), graph, data)
        drifts[asymmetry] = drift([Interpreter(source).run(held_out)], [Interpreter(graph).run(held_out)])
    assert drifts[1] < 0.8 * drifts[0]
    assert drifts[1] < drifts[0.25] < drifts[0]


@pytest.mark.parametrize("size", [0, 1e-30, 1e18, 1e25])
def test_inputs_of_any_size_give_finite_weights(layers: Graph, size: float) -> None:
    with np.errstate(all="ignore"):
        result = applied(Gptq(block=16), layers, [{"x": normal(8, 40) * np.float32(size)} for _ in range(4)])
    assert sum(result.counts[kind] for kind in ("gptq", "clipped", "plain")) == 2
    assert all(np.isfinite(constant.data).all() for constant in layers.constants.values())


@pytest.mark.parametrize("bias", [True, False])
def test_biases_are_corrected_where_there_are_some(graph_of, bias: bool) -> None:
    """Where there are none, nobody looks for their shifts."""
    text, weights, told = LAYERS, {"w": normal(40, 48), "v": normal(24, 48), "b": normal(24)}, set[str]()
    if not bias:
        text = text.replace(", %b)", ")").replace("  const %b: float32[24]\n", "")
        del weights["b"]
    graph = graph_of(text, weights)
    context = PassContext(TARGET, graph.clone(), batches(), progress=lambda what, done, total: told.add(what))
    assert Gptq(block=16).apply(graph, context).counts["biases"] == bias
    assert ("observing means" in told) == bias


@pytest.mark.parametrize("step", [Awq, Gptq])
def test_samples_bound_what_is_looked_at(layers: Graph, step: type[Awq | Gptq]) -> None:
    data, made = batches(), []
    for samples, fed in ((100, data), (0, data[:2]), (0, data)):
        graph = layers.clone()
        applied(step(bits=3, block=16, samples=samples), graph, fed)
        made.append(Interpreter(graph).run(data[0])["y"])
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 1e-7


class Planted(Gptq):
    """A method that makes everything 0."""

    name = "planted"

    def round(
        self, weight: np.ndarray, scheme: BlockScheme, moments: Moments, directions: Directions | None
    ) -> list[BlockWeight]:
        return [BlockWeight.nearest(0 * weight, scheme)]


def test_what_a_method_does_not_improve_is_rounded_and_named(layers: Graph) -> None:
    source = layers.clone()
    result = applied(Planted(block=16), layers, batches())
    assert result.counts["planted"] == 0
    assert result.counts["plain"] + result.counts["clipped"] == 2
    assert [miss.partition(":")[0] for miss in result.misses] == ["first", "second"]
    assert all(miss.endswith("rounding does better on held-out inputs") for miss in result.misses)
    feeds = batches(1)[0]
    assert drift([Interpreter(source).run(feeds)], [Interpreter(layers).run(feeds)]) < 0.2


def test_without_data_or_with_blocks_that_no_runtime_knows_it_is_refused(layers: Graph) -> None:
    with pytest.raises(UsageError, match="gptq needs to know what layers read and got no inputs"):
        applied(Gptq(), layers, [])
    with pytest.raises(UsageError, match="option block of pass gptq must be 0 or a power of two from 16, not 48"):
        applied(Gptq(block=48), layers, batches(1))


@pytest.mark.parametrize(("k", "n"), [(70, 45), (32, 96), (20, 33), (96, 8)])
def test_tiles_of_a_diagonal_are_rounded_as_strips_of_columns_one_after_the_other(k: int, n: int) -> None:
    """The outputs' second moments lie in the order in which columns are taken."""
    weight, inputs = normal(k, n), moments_of(correlated(300, k))
    weight[RNG.random((k, n)) < 0.1] = 0
    gradients = correlated(300, n)[:, ::-1]
    order, outputs, scheme = np.argsort(-np.diagonal(inputs)), moments_of(gradients), BlockScheme(4, 0)
    outputs = outputs[np.ix_(*[np.argsort(-np.diagonal(outputs))] * 2)]
    threads = torch.get_num_threads()
    found = gptq(weight, scheme, inputs, outputs, activation_order=True, damping=0.01)
    assert torch.get_num_threads() == threads

    scales, zero_points = (torch.from_numpy(part.astype(np.float32)) for part in (found.scales, found.zero_points))
    exact = torch.from_numpy(weight[order])
    upper = torch.from_numpy(compensation(inputs[np.ix_(order, order)], 0.01))
    sideways = torch.from_numpy(compensation(outputs, 0.01))
    errors, codes = torch.zeros(k, n), torch.zeros(k, n)
    for start in range(0, n, 32):
        strip = slice(start, min(start + 32, n))
        aims = torch.where(exact[:, strip] != 0, exact[:, strip] - errors[:, :start] @ sideways[:start, strip], 0)
        bounds = [part[:, strip] * (exact[:, strip] != 0) for part in (-zero_points, 15 - zero_points)]
        grid = [part.expand_as(aims)[None] for part in (scales[:, strip], *bounds)]
        steps = round_in_order(aims[None].clone(), upper[None], *grid)[0][0]
        errors[:, strip] = (aims - steps * scales[:, strip]) @ torch.linalg.inv(sideways[strip, strip])
        codes[:, strip] = steps + zero_points[:, strip]
    assert (found.codes[order] != codes.numpy()).mean() < 0.01  # sums in another order round otherwise at times


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_zeros_stay_where_moments_are_infinite(sideways: bool) -> None:
    weight, infinite = normal(70, 40), np.full((70, 70), np.inf, np.float32)
    weight[RNG.random(weight.shape) < 0.3] = 0
    outputs = np.full((40, 40), np.inf, np.float32) if sideways else None
    found = gptq(weight, BlockScheme(4, 16), infinite, outputs, activation_order=True, damping=0.01)
    assert np.isfinite(found.floats).all()
    assert not found.floats[weight == 0].any()


def test_the_factor_is_that_of_the_inverse_of_damped_moments() -> None:
    """Channels that calibration doesn't show count as much as one does on average."""
    moments = moments_of(correlated(20, 40))
    moments[3] = moments[:, 3] = 0
    energy = np.diagonal(moments)
    damped = moments + np.diag(np.where(energy > 0, 0, energy.mean()) + 0.01 * energy.mean())
    upper = compensation(moments, damping=0.01)
    assert (np.tril(upper, -1) == 0).all()
    np.testing.assert_allclose(upper.T @ upper @ damped, np.eye(40), atol=1e-3)
