"""Fine-tuning: labels are learned, held-out ones judge, and what can't be learned from is refused in one sentence."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import planish
from planish.ir.builder import Builder
from planish.ir.errors import CheckError, ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Feeds, Labelled, PassContext, PassResult
from planish.passes.probes import run_graph
from planish.passes.training import train
from planish.passes.training.fine_tune import FineTuning
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
DATA: list[Feeds] = [{"x": RNG.standard_normal((16, 6), np.float32)} for _ in range(20)]
TRUTH = RNG.standard_normal((6, 3), np.float32)
SCORES = [feeds["x"] @ TRUTH for feeds in DATA]
CLASSES = [scores.argmax(-1) for scores in SCORES]


def network(*, softmax: bool = False) -> Graph:
    random = np.random.default_rng(1)
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 6)))
    hidden = op.Relu(op.Gemm(x, op.constant(random.standard_normal((6, 16), np.float32), "first"), np.zeros(16, "f")))
    scores = op.Gemm(hidden, op.constant(random.standard_normal((16, 3), np.float32), "second"), np.zeros(3, "f"))
    graph.outputs["hidden" if softmax else "y"] = scores
    if softmax:
        graph.outputs["y"] = op.Softmax(scores, axis=1)
    return graph


def tuned(graph: Graph, labels: Any, *, data: list[Feeds] = DATA, **options: Any) -> PassResult:
    surroundings = {key: options.pop(key) for key in ("labelled", "find_function") if key in options}
    context = PassContext(load_target("x86-64"), graph.clone(), data, labels=labels)
    return FineTuning(**options).apply(graph, dataclasses.replace(context, **surroundings))


def wrong(graph: Graph) -> float:
    found = [outputs["y"].argmax(-1) for outputs in run_graph(graph, DATA)]
    return float(np.mean(np.concatenate(found) != np.concatenate(CLASSES)))


@pytest.mark.parametrize("softmax", [False, True])
def test_classes_are_learned(softmax: bool) -> None:
    graph = network(softmax=softmax)
    before = wrong(graph)

    result = tuned(graph, CLASSES, epochs=30, lr=2e-2, output="y")

    assert wrong(graph) < 0.3 * before
    assert result.changed
    assert result.curve[-1] < 0.3 * result.curve[0]


@pytest.mark.parametrize("seed", range(3))
def test_batches_whose_gradients_are_averaged_are_one_batch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network_of, losses = {rows: network() for rows in (32, 64)}, list[list[float]]()
    for rows, graph in network_of.items():
        monkeypatch.setattr(train, "ROWS", rows)
        context = PassContext(load_target("x86-64"), graph.clone(), DATA, labels=CLASSES, seed=seed)
        exact = FineTuning(epochs=6, lr=1e-2, accumulate=64 // rows, precision="float32")
        losses.append(exact.apply(graph, context).curve)

    assert len(losses[0]) == 6 * math.ceil(18 * 16 / 64)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for name, constant in network_of[32].constants.items():
        np.testing.assert_allclose(constant.data, network_of[64].constants[name].data, rtol=1e-3, atol=1e-4)


def test_numbers_are_learned_and_a_column_need_not_be_one() -> None:
    graph = network()
    before = run_graph(graph, DATA)
    graph.outputs["y"] = Builder(graph).Slice(graph.outputs["y"], np.array([0]), np.array([1]), np.array([1]))

    tuned(graph, [scores[:, 0] for scores in SCORES], epochs=20, lr=2e-2)

    def error(outputs: list[Any]) -> float:
        return float(np.mean([np.square(o["y"][:, 0] - s[:, 0]) for o, s in zip(outputs, SCORES, strict=True)]))

    assert error(run_graph(graph, DATA)) < 0.2 * error(before)


def test_labels_below_zero_are_left_out() -> None:
    labels = [np.where(np.arange(16) % 2, classes, -1) for classes in CLASSES]
    graph = network()
    assert tuned(graph, labels, epochs=10, lr=2e-2).changed


def test_images_have_their_classes_along_the_second_axis() -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2, 4, 4)))
    graph.outputs["y"] = op.Conv(x, RNG.standard_normal((3, 2, 1, 1), np.float32))
    data = [{"x": RNG.standard_normal((8, 2, 4, 4), np.float32)} for _ in range(10)]
    labels = [(feeds["x"][:, 0] > 0).astype(int) for feeds in data]

    result = tuned(graph, labels, data=data, epochs=20, lr=2e-2)

    assert result.curve[-1] < 0.7 * result.curve[0]


def test_a_loss_of_the_user_s_is_given_outputs_and_labels() -> None:
    graph = network()
    seen: list[tuple[Any, ...]] = []

    def hinge(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        seen.append((*outputs, labels.dtype))
        return torch.nn.functional.multi_margin_loss(outputs["y"], labels)

    before = wrong(graph)
    tuned(graph, CLASSES, epochs=20, lr=2e-2, loss="losses.py:hinge", find_function={"losses.py:hinge": hinge}.get)

    assert wrong(graph) < 0.5 * before
    assert set(seen) == {("y", torch.int64)}


def test_a_loss_may_be_below_zero() -> None:
    """A rate is found for it, as for any other."""
    graph = network()

    def likeness(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return -torch.softmax(outputs["y"], 1).gather(1, labels[:, None]).mean()

    before, find = wrong(graph), {"losses.py:likeness": likeness}.get
    result = tuned(graph, CLASSES, epochs=20, loss="losses.py:likeness", find_function=find)

    assert wrong(graph) < 0.5 * before
    assert "(rate 0," not in result.notes[0]


def test_only_what_is_selected_is_trained() -> None:
    graph = network()
    held = {name: constant.data for name, constant in graph.constants.items()}
    (first, *_) = (node for node in graph.nodes if node.operator == "Gemm")

    tuned(graph, CLASSES, epochs=5, lr=2e-2, skip=(first.outputs[0].name,))

    same = {name for name, array in held.items() if np.array_equal(graph.constants[name].data, array)}
    assert same == {"first", "constant"}
    with pytest.raises(UsageError, match="no weights to train but frozen ones"):
        tuned(graph, CLASSES, only=("nothing",))


def test_a_metric_judges_where_there_is_one() -> None:
    values = iter([1.0])
    falling = Labelled(CLASSES, lambda predictions, labels: next(values, 0.0))
    result = tuned(network(), CLASSES, labelled=falling, epochs=2, lr=2e-2)
    assert not result.changed
    assert "training made nothing better on held-out data" in result.misses[0]


def test_weights_of_layers_decay_and_biases_don_t() -> None:
    plain, decayed = network(), network()
    tuned(plain, CLASSES, epochs=2, lr=1e-2)
    tuned(decayed, CLASSES, epochs=2, lr=1e-2, weight_decay=5.0)
    for name, constant in plain.constants.items():
        left = np.abs(decayed.constants[name].data).mean() / np.abs(constant.data).mean()
        assert left < 0.7 if constant.data.ndim > 1 else left > 0.9


def test_it_may_end_early_and_gradients_may_be_clipped() -> None:
    graph = network()
    whole = tuned(network(), CLASSES, epochs=10, lr=2e-2)
    short = tuned(graph, CLASSES, epochs=10, lr=5.0, patience=1)
    assert "180 steps" not in short.misses[0]  # of the first two parts
    clipped = network()
    assert tuned(clipped, CLASSES, epochs=10, lr=2e-2, clip=1e-3, average=0.9).curve != whole.curve


NUMBERS = {"loss": "mse"}


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ((), {}, UsageError, "the calibration data have none: give `labels`"),
        ([["a"] * 16] * 20, {}, ModelError, "labels to learn from must be finite numbers, not list of <U1"),
        ([np.full(16, np.nan)] * 20, {}, ModelError, "labels to learn from must be finite numbers"),
        (SCORES, {"loss": "cross-entropy"}, ModelError, "cross-entropy needs whole numbers as labels"),
        ([it[:, None] for it in CLASSES], {}, ModelError, r"needs labels of shape \[16\], got \[16, 1\]"),
        ([it + 1 for it in CLASSES], {}, ModelError, "a label is 3, but 'y' has 3 classes from 0 on"),
        (CLASSES, NUMBERS, ModelError, r"mse with 'y' needs labels of shape \[16, 3\], got \[16\]"),
        (CLASSES, {"loss": "cross_entropy"}, UsageError, "knows no loss 'cross_entropy'; did you mean 'cross-entropy'"),
        (CLASSES, {"output": "z"}, UsageError, "the model has no output 'z'"),
        (CLASSES, {"loss": "m:f", "find_function": {"m:f": lambda a, b: 1 / 0}.get}, ModelError, "m:f failed: ZeroDiv"),
        (CLASSES, {"loss": "m:f", "find_function": {"m:f": lambda a, b: 1.0}.get}, ModelError, "tensor of one element"),
        (CLASSES, {"loss": "m:f"}, UsageError, "m:f can't be found here"),
        (
            CLASSES,
            {"loss": "m:f", "find_function": {"m:f": lambda a, b: b.sum() * torch.nan}.get},
            ModelError,
            "the loss is no number before the first step",
        ),
        (
            CLASSES,
            {"loss": "m:f", "find_function": {"m:f": lambda a, b: b.float().mean()}.get},
            ModelError,
            "no gradient reaches the weights",
        ),
    ],
)
def test_what_can_t_be_learned_is_refused_and_nothing_is_lost(
    labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    graph = network()
    held = {name: constant.data for name, constant in graph.constants.items()}

    with pytest.raises(error, match=message):
        tuned(graph, labels, **options)

    assert all(graph.constants[name].data is array for name, array in held.items())


def test_a_loss_that_becomes_no_number_is_one_error() -> None:
    with pytest.raises(CheckError, match=r"fine-tune: the loss is no longer a number with lr=1e\+30"):
        tuned(network(), CLASSES, epochs=1, lr=1e30)


def test_labels_and_losses_come_from_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.concatenate([it["x"] for it in DATA]), labels=np.concatenate(CLASSES))
    (tmp_path / "losses.py").write_text("def first(outputs, labels):\n    return outputs['y'][:, 0].square().mean()\n")
    graph = network()

    made = planish.optimize(
        graph,
        [{"fine-tune": {"epochs": 2, "loss": f"{tmp_path}/losses.py:first"}}],
        data=tmp_path / "data.npz",
        verify="structure",
    )

    assert made.records[0].result.changed
    size = [np.square(run_graph(it, DATA[:1])[0]["y"][:, 0]).mean() for it in (graph, made.graph)]
    assert size[1] < size[0]
