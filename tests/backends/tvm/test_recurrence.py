"""Recurrent layers, whose steps are one loop when the model runs."""

import numpy as np
import pytest

import planish
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType

RNG = np.random.default_rng(0)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def floats(*shape: int) -> np.ndarray:
    """Numbers so small that sums of a row's products don't grow from step to step."""
    return RNG.standard_normal(shape).astype(np.float32) / np.float32(shape[-1] ** 0.5)


def weights(operator: str, directions: int, size: int, hidden: int) -> list[np.ndarray]:
    """The weights of the input and of the state, and the biases."""
    rows = GATES[operator] * hidden
    return [floats(directions, rows, size), floats(directions, rows, hidden), floats(directions, 2 * rows)]


@pytest.mark.parametrize("operator", GATES)
def test_sequences_of_any_length(operator: str, target) -> None:
    """Layers without and with states to begin with, of weights that threads share or not, on batches of any size."""
    graph, states = Graph("test"), 1 + (operator == "LSTM")
    op, x = Builder(graph), graph.add_input("x", TensorType(DType.float32, ("time", "batch", 5)))
    starts = [graph.add_input(f"s{index}", TensorType(DType.float32, (2, "batch", 19))) for index in range(states)]
    both = op(
        operator, x, *weights(operator, 2, 5, 19), None, *starts, hidden_size=19, direction="bidirectional", outputs=2
    )
    wide = op(operator, x, *weights(operator, 1, 5, 160)[:2], hidden_size=160, outputs=1 + states)
    graph.outputs = {f"y{index}": value for index, value in enumerate((*both, *wide))}
    executable = planish.compile(graph, backend="tvm", target=target)
    for time, batch in [(1, 1), (2, 3), (7, 9), (50, 2), (3, 21)]:
        feeds = {"x": floats(time, batch, 5), **{f"s{index}": floats(2, batch, 19) for index in range(states)}}
        found = executable.run(feeds)
        for y, expected in zip(found, Interpreter(graph).run(feeds).values(), strict=True):
            np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("RNN", {"activations": ("Relu", "HardSigmoid"), "clip": 0.4}),
        ("GRU", {"clip": 0.4}),
        ("GRU", {"linear_before_reset": 1, "activations": ("Sigmoid", "Elu", "HardSigmoid", "LeakyRelu")}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"clip": 0.4, "activations": ("Sigmoid", "Elu", "Relu", "Sigmoid", "Tanh", "Tanh")}),
    ],
)
def test_sequences_of_their_own_length(agree, operator: str, attributes) -> None:
    """In both directions, with all that a layer may have; the time comes first, or the batch."""
    states = [floats(2, 3, 20) for _ in range(1 + (operator == "LSTM"))]
    holes = [floats(2, 60)] if operator == "LSTM" else []
    inner = weights(operator, 2, 2, 20)

    def build(op, x, lengths, *states):
        shared = {"hidden_size": 20, "direction": "bidirectional", "outputs": 2 + len(holes), **attributes}
        first = op(operator, x, *inner, lengths, *states, *holes, **shared)
        turned = [op.Transpose(value, perm=(1, 0, 2)) for value in (x, *states)]
        second = op(operator, turned[0], *inner, lengths, *turned[1:], *holes, layout=1, **shared)
        return [*first, *second]

    dims = [("time", "batch", 2), ("batch",), *[(2, "batch", 20)] * len(states)]
    agree(build, floats(4, 3, 2), np.array([4, 1, 3], np.int32), *states, dims=dims)


@pytest.mark.parametrize("operator", GATES)
def test_weights_that_are_given_when_the_model_runs(agree, operator: str) -> None:
    arrays = floats(4, 3, 6), *weights(operator, 1, 6, 20)
    agree(lambda op, *inputs: op(operator, *inputs, hidden_size=20, outputs=2), *arrays)
