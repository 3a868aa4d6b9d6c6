import numpy as np
import pytest
from scipy.special import erf

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.ir.types import DType

FLOATS = np.array([0.0, -0.0, 1, -1, 2.5, -2.5, 7, -7, 0.3, 100, -100, 1e-5, np.inf, -np.inf, np.nan], np.float32)


def integers(dtype: type) -> np.ndarray:
    limits = np.iinfo(dtype)
    edges = [0, 1, 2, 3, 7, 8, 9, 63, 64, 100, limits.max - 1, limits.max, limits.min, limits.min + 1, -1, -2, -3, -7]
    return np.array([value for value in dict.fromkeys(edges) if limits.min <= value <= limits.max], dtype)


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All of them beside all of them, as a column and a row."""
    return values[:, None], values[None]


def test_floats_to_the_edges(agree) -> None:
    def unary(op, x):
        names = ("Relu", "Elu", "Selu", "HardSigmoid", "Sign", "Shrink", "ThresholdedRelu", "Softplus", "Mish", "Celu")
        clipped = [
            op.Clip(x, np.float32(-2), np.float32(3)),
            op.Clip(x, None, np.float32(1)),
            op.Clip(x, np.float32(0)),
        ]
        return [*(op(name, x) for name in names), *clipped]

    def binary(op, a, b):
        return [*(op(name, a, b) for name in ("Max", "Min", "Div", "PRelu", "Mod")), op.Mod(a, b, fmod=1)]

    agree(unary, FLOATS, dims=[("n",)])
    agree(binary, *pairs(FLOATS), dims=[("rows", 1), (1, "columns")])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_integers_to_the_edges(agree, dtype: type) -> None:
    """Remainders by -1 and of either sign; shifts by more bits than there are; powers that wrap around."""
    values = integers(dtype)

    def build(op, a, b, dividend, divisor):
        y = [op(name, a, b) for name in ("Max", "Min")]
        y += [op.Div(dividend, divisor), op.Mod(dividend, divisor), op.Mod(dividend, divisor, fmod=1)]
        if dtype in (np.int32, np.int64):
            y.append(op.Pow(a, b))
        if dtype not in (np.uint8, np.uint64):
            y += [op.Relu(a), op.Sign(a)]
        return y + [op.BitShift(a, divisor, direction=direction) for direction in ("LEFT", "RIGHT")]

    most = values[(values == 0) | (values != np.iinfo(dtype).min) & (values < 2**63)]
    arrays = [*pairs(values), most[:, None], most[most != 0][None]]
    agree(build, *arrays, dims=[("rows", 1), (1, "columns"), ("dividends", 1), (1, "divisors")])


def test_divisions_that_no_machine_does(make_graph, target, tmp_path) -> None:
    """They end no process: the least integer by -1 wraps around, and a division by zero gives 0."""
    pytest.importorskip("tvm")
    divisors = np.array([-1, 0])
    write_artifact(
        tmp_path, make_graph(lambda op, x: op.Div(x, divisors), 2, dtype=DType.int64), find_backend("tvm"), target
    )
    least = np.iinfo(np.int64).min
    assert load(tmp_path)(np.array([least, 7]))[0].tolist() == [least, 0]


def test_truth_values_are_compared(agree) -> None:
    truth = np.array([True, False])
    agree(lambda op, a, b: [op.Equal(a, b), op.Equal(op.Not(a), b)], *pairs(truth), dims=[("rows", 1), (1, "columns")])


def test_functions_are_as_exact_as_the_documentation_says(make_graph, target, tmp_path) -> None:
    """Behind a product, in kernels of planish's own."""
    bounds = {"Exp": (1, np.exp), "Sigmoid": (3, lambda x: 1 / (1 + np.exp(-x))), "Tanh": (7, np.tanh), "Erf": (8, erf)}
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-limit, limit, (1024, 16)) for limit in (1e-3, 1, 10, 87)]).astype(np.float32)
    identity = np.eye(16, dtype=np.float32)
    graph = make_graph(lambda op, x: op.Concat(*(op(it, op.MatMul(x, identity)) for it in bounds), axis=1), *x.shape)
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    results = np.split(load(tmp_path / "dist")(x)[0], len(bounds), axis=1)
    for found, (name, (units, function)) in zip(results, bounds.items(), strict=True):
        exact = function(x.astype(np.float64))
        is_normal = np.abs(exact) > 1.7e-38
        off = np.abs(found - exact)[is_normal] / np.spacing(np.abs(exact[is_normal]).astype(np.float32))
        assert off.max() <= units, (name, off.max())
        assert (np.abs(found - exact)[~is_normal] <= 1.7e-38).all(), name


def test_curves_that_follow_no_layer(agree) -> None:
    """Vectors take polynomials, of no, few or many elements, with the ends of what numbers there are among them."""
    ends = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-30, -90.0, 90.0, -3.0], np.float32)

    def build(op, x, scalar):
        wide = op.Cast(x, to=DType.float64)
        return [op.Sigmoid(x), op.Erf(x), op.Sigmoid(scalar), op.Erf(scalar), op.Sigmoid(wide)]

    scalar, many = np.float32(0.25).reshape(()), np.linspace(-12, 12, 9003, dtype=np.float32)
    again = [[rows, scalar] for rows in (many.reshape(-1, 1), ends[:0].reshape(0, 1))]
    agree(build, ends.reshape(8, 1), scalar, dims=[("rows", 1), ()], again=again)
