import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends.tvm.relax.converters.table import FUSED_KERNELS
from planish.backends.tvm.relax.fusion import find_groups
from planish.ir.types import DType

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((24, 40), np.float32)
BIAS = RNG.standard_normal(40, np.float32)
EDGES = [np.nan, np.inf, -np.inf, 0, -0.0, 1e-30, 3, -3, 90, -90, 1e30, -1e30]

CHAINS = {
    "bias": lambda op, x, y: op.Add(y, BIAS),
    "bias in front": lambda op, x, y: op.Add(BIAS, y),
    "a number": lambda op, x, y: op.Sub(2.0, op.Mul(y, 0.5)),
    "a number for each row": lambda op, x, y: op.Mul(y, op.ReduceMax(x, [-1])),
    "residual": lambda op, x, y: op.Relu(op.Add(op.Add(y, BIAS), op.Concat(x, x, axis=-1))),
    "silu": lambda op, x, y: op.Mul(y, op.Sigmoid(y)),
    "quotient of itself": lambda op, x, y: op.Div(y, op.Add(op.Relu(y), 1.0)),
    "gelu": lambda op, x, y: op.Gelu(op.Add(y, BIAS)),
    "gelu by tanh": lambda op, x, y: op.Gelu(y, approximate="tanh"),
    "clip": lambda op, x, y: op.Clip(op.Clip(y, np.float32(-1), np.float32(2)), None, np.float32(1)),
    "hard swish": lambda op, x, y: op.HardSwish(y),
    "slopes": lambda op, x, y: op.PRelu(op.LeakyRelu(y, alpha=0.3), np.abs(BIAS)),
    "exponentials": lambda op, x, y: op.Exp(op.Tanh(op.Elu(op.Erf(op.Neg(y)), alpha=0.7))),
}


def nodes_of_groups(graph) -> list[list[str]]:
    groups = find_groups(graph, list(graph.nodes), FUSED_KERNELS)
    return [[node.operator for node in group.nodes] for group in dict.fromkeys(groups.values())]


@pytest.mark.parametrize("name", CHAINS)
def test_what_follows_a_product_is_computed_with_it(agree, name: str) -> None:
    def build(op, x):
        return CHAINS[name](op, op.Slice(x, [0], [20], [-1]), op.MatMul(x, WEIGHTS))

    x = RNG.standard_normal((2, 9, 24)).astype(np.float32)
    agree(build, x, dims=[("batch", "rows", 24)])


@pytest.mark.parametrize("shape", [(32, 1, 1), (32, 3, 3), (1, 32, 1, 1)])
def test_what_is_added_to_one_image_may_have_fewer_axes(agree, shape: tuple[int, ...]) -> None:
    """As many elements as the image has, but no axis for it: such a tensor isn't in blocks of channels."""
    kernel = RNG.standard_normal((32, 16, 1, 1)).astype(np.float32)
    x = RNG.standard_normal((1, 16, *shape[-2:])).astype(np.float32)
    y = RNG.standard_normal(shape).astype(np.float32)
    agree(lambda op, x, y: op.Relu(op.Add(op.Relu(op.Conv(x, kernel)), y)), x, y)


def test_edges_pass_through_what_follows(agree) -> None:
    """What isn't finite, or large: as the operators have it one by one."""

    def build(op, x):
        y = op.MatMul(x, np.ones((1, len(EDGES)), np.float32))  # a kernel of sparse weights would skip zeros
        return [op(name, y) for name in ("Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Elu", "LeakyRelu", "HardSigmoid")]

    agree(build, np.array(EDGES, np.float32)[:, None])


def test_a_group_ends_where_others_read(make_graph) -> None:
    def build(op, x):
        y = op.Relu(op.Add(op.MatMul(x, WEIGHTS), BIAS))
        z = op.Sigmoid(op.MatMul(y, WEIGHTS.T.copy()))
        return op.Add(op.MatMul(z, WEIGHTS), y)

    groups = nodes_of_groups(make_graph(build, "rows", 24))
    assert groups == [["MatMul", "Add", "Relu"], ["MatMul", "Sigmoid"], ["MatMul", "Add"]]


def test_an_image_may_be_read_by_what_has_several_outputs(make_graph) -> None:
    """What reads it is looked at, to see whether it makes the numbers narrower."""
    assert not nodes_of_groups(make_graph(lambda op, x: op.TopK(op.Relu(x), [2], axis=1, outputs=2)[0], 2, 8, 4, 4))


@pytest.mark.parametrize("is_read_by_others", [False, True])
def test_what_is_quantized_at_once_is_computed_coarsely(make_graph, agree, is_read_by_others) -> None:
    def build(op, x):
        y = op.Gelu(op.MatMul(x, WEIGHTS))
        integers, scales, _ = op("planish::DynamicQuantizeRows", y, outputs=3)
        numbers = op.Mul(op.Cast(integers, to=DType.float32), scales)
        return op.Add(numbers, y) if is_read_by_others else numbers

    graph = make_graph(build, 9, 24)
    groups = find_groups(graph, list(graph.nodes), FUSED_KERNELS)
    (group,) = {group for node, group in groups.items() if node.operator == "Gelu"}
    assert group.epilogue.is_coarse is not is_read_by_others
    agree(build, RNG.standard_normal((9, 24), np.float32), tolerance=0.1)  # a step of what is quantized


def test_what_adds_two_products_is_grouped_with_one_of_them(make_graph) -> None:
    graph = make_graph(lambda op, x: op.Relu(op.Add(op.MatMul(x, WEIGHTS), op.MatMul(x, WEIGHTS))), "rows", 24)
    assert nodes_of_groups(graph) == [["MatMul", "Add", "Relu"], ["MatMul"]]


def test_a_group_ends_at_an_output(make_graph) -> None:
    graph = make_graph(lambda op, x: op.MatMul(x, WEIGHTS), "rows", 24)
    from planish.ir.builder import Builder

    graph.outputs["z"] = Builder(graph).Relu(graph.outputs["y"])
    assert nodes_of_groups(graph) == [["MatMul"]]


def test_operands_of_a_number_for_each_row_join_and_those_that_items_share_stay_outside(make_graph) -> None:
    rows = RNG.standard_normal((2, 3, 1), np.float32)
    build = lambda op, x: op.Mul(op.Mul(op.MatMul(x, WEIGHTS), rows), rows[0])  # noqa: E731
    assert nodes_of_groups(make_graph(build, 2, 3, 24)) == [["MatMul", "Mul"]]
