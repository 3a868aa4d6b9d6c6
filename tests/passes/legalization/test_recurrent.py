import numpy as np
import pytest

from planish.ir.errors import TargetError

RNG = np.random.default_rng(0)
TIME, BATCH, SIZE, HIDDEN = 4, 3, 2, 5
LENGTHS = np.array([4, 1, 3], np.int32)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def weights(operator: str, directions: int) -> list[np.ndarray]:
    """The weights of the input and of the state, and the biases."""
    rows = GATES[operator] * HIDDEN
    return [floats(directions, rows, SIZE), floats(directions, rows, HIDDEN), floats(directions, 2 * rows)]


def test_a_layer_of_nothing_but_weights(spelled_out) -> None:
    for operator in GATES:
        for attributes in ({}, {"direction": "reverse"}, {"linear_before_reset": 1} if operator == "GRU" else {}):
            w, r, _ = weights(operator, 1)
            dims = [(TIME, "batch", SIZE), w.shape, r.shape]
            spelled_out(
                operator, floats(TIME, BATCH, SIZE), w, r, dims=dims, hidden_size=HIDDEN, outputs=2, **attributes
            )


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        (
            "RNN",
            {"activations": ("Affine", "ScaledTanh"), "activation_alpha": (0.5, 0.7), "activation_beta": (0.1, 0.9)},
        ),
        ("RNN", {"activations": ("ThresholdedRelu", "HardSigmoid"), "activation_alpha": (0.1,)}),
        ("GRU", {"clip": 0.4}),
        ("GRU", {"linear_before_reset": 1, "activations": ("Sigmoid", "Softsign", "HardSigmoid", "LeakyRelu")}),
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"clip": 0.4, "activations": ("Sigmoid", "Elu", "Softplus", "Relu", "Tanh", "Affine")}),
    ],
)
def test_both_directions_over_sequences_of_their_own_length(spelled_out, operator: str, attributes) -> None:
    """Layers have initial states, an LSTM peepholes too; the time comes first, or the batch."""
    x, states = floats(TIME, BATCH, SIZE), [floats(2, BATCH, HIDDEN) for _ in range(1 + (operator == "LSTM"))]
    holes = [floats(2, 3 * HIDDEN)] if operator == "LSTM" else []
    shared = {"hidden_size": HIDDEN, "direction": "bidirectional", "outputs": 2 + len(holes), **attributes}
    inner = weights(operator, 2)
    spelled_out(operator, x, *inner, LENGTHS, *states, *holes, **shared)
    turned = [array.swapaxes(0, 1).copy() for array in (x, *states)]
    spelled_out(operator, turned[0], *inner, LENGTHS, *turned[1:], *holes, layout=1, **shared)


@pytest.mark.parametrize("directions", [1, 2])
def test_integers_stand_for_weights_and_for_what_they_multiply(spelled_out, directions: int) -> None:
    """Scales are for a direction, or for each column of its weights; states may be given."""
    w, r = (RNG.integers(-127, 128, (directions, k, 4 * HIDDEN)).astype(np.int8) for k in (SIZE, HIDDEN))
    scales = np.full(directions, 0.01, np.float32), np.full((directions, 4 * HIDDEN), 0.005, np.float32)
    zeros = np.full(directions, 3, np.int8), np.zeros((directions, 4 * HIDDEN), np.int8)
    states = [floats(2, BATCH, HIDDEN) for _ in range(2)] if directions == 2 else [None, None]
    direction = "bidirectional" if directions == 2 else "forward"
    grids = scales[0], zeros[0], scales[1], zeros[1]
    inputs = [floats(TIME, BATCH, SIZE), w, r, None, None, *states, None, *grids]
    spelled_out("com.microsoft::DynamicQuantizeLSTM", *inputs, outputs=3, hidden_size=HIDDEN, direction=direction)


def test_layers_of_any_length_and_their_activations(spelled_out) -> None:
    """A length that isn't known is refused only where activations have no kernel."""
    w, r, _ = weights("LSTM", 1)
    shared = {"dims": [("time", 1, SIZE), w.shape, r.shape], "hidden_size": HIDDEN, "outputs": 3}
    spelled_out("LSTM", floats(TIME, 1, SIZE), w, r, **shared)
    with pytest.raises(
        TargetError, match="layer: tvm can't run LSTM: how often it runs, time, is known .*give a size .*{time=16}"
    ):
        spelled_out("LSTM", floats(TIME, 1, SIZE), w, r, activations=("Sigmoid", "Softplus", "Tanh"), **shared)
