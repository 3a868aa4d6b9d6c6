"""Distillation: the student comes back to its teacher, never ends worse, and changes nothing but weights."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from planish.ir.builder import Builder
from planish.ir.errors import CheckError, ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import Feeds, Labelled, PassContext
from planish.passes.distillation.distill import Distillation
from planish.passes.probes import run_graph
from planish.passes.training import climb, train
from planish.passes.training.climb import RATES
from planish.targets.load import load_target


def teacher(*, classes: bool = False) -> Graph:
    """A small network with all that there may be in one: statistics, a scalar, several layers."""
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2, 6, 6)))
    h = op.Conv(x, op.constant(array(8, 2, 3, 3), "conv"), op.constant(array(8), "bias"))
    statistics = [op.constant(data, name) for name, data in (("mean", array(8)), ("variance", np.ones(8, np.float32)))]
    h = op.Relu(op.BatchNormalization(h, op.constant(np.ones(8, np.float32), "scale"), array(8), *statistics))
    h = op.Mul(op.Flatten(h), op.constant(np.array([0.5], np.float32), "half"))
    h = op.Gemm(h, op.constant(array(4, 128), "head"), array(4), transB=1)
    graph.outputs["y"] = op.Softmax(h, axis=1) if classes else h
    return graph


def batches(count: int = 12, size: int = 16) -> list[Feeds]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((size, 2, 6, 6)).astype(np.float32)} for _ in range(count)]


def context(source: Graph, calibration: list[Feeds] | None = None, **changes: Any) -> PassContext:
    held = batches() if calibration is None else calibration
    return dataclasses.replace(PassContext(load_target("x86-64"), source, held), **changes)


def disturbed(graph: Graph, *names: str) -> Graph:
    """A copy with noise on some weights."""
    random = np.random.default_rng(2)
    copy = graph.clone()
    for name in names:
        constant = copy.constants[name]
        noise = 0.3 * constant.data.std() * random.standard_normal(constant.data.shape)
        constant.data = (constant.data + noise).astype(np.float32)
    return copy


def distance(source: Graph, student: Graph, *, as_classes: bool = False) -> float:
    """The relative error of the outputs, or of their softmax, on inputs that nobody trained on."""
    fresh = [{"x": np.random.default_rng(3).standard_normal((64, 2, 6, 6)).astype(np.float32)}]
    results = [run_graph(graph, fresh)[0]["y"] for graph in (source, student)]
    expected, got = ([{"y": softmax(result, axis=1) if as_classes else result}] for result in results)
    return drift(expected, got)


def arrays(graph: Graph) -> dict[str, np.ndarray]:
    return {name: constant.data.copy() for name, constant in graph.constants.items()}


@pytest.mark.parametrize("loss", ["auto", "kl", "mse"])
@pytest.mark.parametrize("classes", [False, True])
def test_a_disturbed_student_comes_back_to_its_teacher(loss: str, classes: bool) -> None:
    source = teacher(classes=classes)
    student = disturbed(source, "conv", "head")
    before, weights = distance(source, student, as_classes=loss != "mse"), arrays(source)

    result = Distillation(epochs=20, lr=1e-2, loss=loss, temperature=1.0).run(student, context(source))

    verify(student)
    assert distance(source, student, as_classes=loss != "mse") < 0.4 * before
    assert result.changed
    assert all(np.array_equal(source.constants[name].data, array) for name, array in weights.items())


@pytest.mark.parametrize("log", [False, True])
def test_what_is_added_to_all_logits_is_taken_away(log: bool) -> None:
    """It changes no class, but whoever reads logits as numbers is told something else; a softmax takes it away."""
    source, student = teacher(), teacher()
    (bias,) = (constant for constant in student.constants.values() if constant.data.shape == (4,))
    bias.data = bias.data + 2
    for graph in (source, student) if log else ():
        graph.outputs["y"] = Builder(graph).LogSoftmax(graph.outputs["y"], axis=1)

    result = Distillation().apply(student, context(source))

    assert bool(result.changed) != log
    assert distance(source, student) < 0.05


def test_the_rate_is_found() -> None:
    source = teacher()
    student = disturbed(source, "conv", "head")
    before = distance(source, student)

    result = Distillation(epochs=20, loss="mse").run(student, context(source))

    assert distance(source, student) < 0.3 * before
    assert float(re.search(r"rate ([\d.e-]+), 100 steps", result.notes[0])[1]) in RATES
    assert len(result.curve) == 100
    assert np.mean(result.curve[-10:]) < 0.5 * result.curve[0]


def test_a_larger_rate_than_the_best_of_the_trials_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials are too short to make up for what a large rate breaks at first."""
    source, losses, run = teacher(), dict[float, float](), climb.Climb._run

    def recorded(self: climb.Climb, drawn: list[object], rate: float, part: list[int], steps: int) -> object:
        verdict = run(self, drawn, rate, part, steps)
        losses.setdefault(rate, verdict.loss)
        return verdict

    monkeypatch.setattr(climb.Climb, "_run", recorded)
    result = Distillation(epochs=20, loss="mse").run(disturbed(source, "conv", "head"), context(source))

    taken = float(re.search(r"rate ([\d.e-]+)", result.notes[0])[1])
    assert taken > min(losses, key=losses.__getitem__)
    assert losses[taken] > 1.05 * min(losses.values())


def test_many_samples_have_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_STEPS", 8)
    monkeypatch.setattr(train, "_MOST_STEPS", 20)
    monkeypatch.setattr(train, "_EPOCHS", 2)
    source, steps = teacher(), list[int]()
    for count in (64, 160, 640):
        result = Distillation(lr=1e-2).run(disturbed(source, "conv"), context(source, batches(count // 32, 32)))
        steps += map(int, re.findall(r"(\d+) steps", result.notes[0]))

    assert steps == [8, 10, 20]


def test_settings_and_statistics_are_not_weights() -> None:
    source = teacher()
    student = disturbed(source, "conv")
    before = arrays(student)

    Distillation(epochs=2, lr=1e-2).run(student, context(source))

    assert unchanged(before, student) == {"mean", "variance", "half"}


def unchanged(before: dict[str, np.ndarray], student: Graph) -> set[str]:
    return {name for name, array in before.items() if np.array_equal(student.constants[name].data, array)}


def test_what_is_not_selected_stays() -> None:
    source = teacher()
    student = disturbed(source, "conv", "head")
    before = arrays(student)

    Distillation(epochs=2, lr=1e-2, only=("Gemm",)).apply(student, context(source))

    assert "head" not in unchanged(before, student)
    assert {"conv", "bias", "scale"} <= unchanged(before, student)
    with pytest.raises(UsageError, match="no weights to train but frozen ones"):
        Distillation(skip=("*",)).apply(student, context(source))


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    source = teacher()
    students = [disturbed(source, "conv") for _ in range(3)]

    for student, seed in zip(students, (5, 5, 6), strict=True):
        Distillation(epochs=2).run(student, context(source, seed=seed))

    first, second, other = (arrays(student) for student in students)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["conv"], other["conv"])


def test_training_that_does_harm_is_undone() -> None:
    source = teacher()
    student = disturbed(source, "conv")
    before = arrays(student)

    result = Distillation(epochs=1, lr=100.0, loss="mse").run(student, context(source))

    assert not result.changed
    assert "training made nothing better on held-out data" in result.misses[0]
    assert len(unchanged(before, student)) == len(before)


def test_a_student_that_is_its_teacher_is_told_so_and_another_teacher_may_be_named() -> None:
    source = teacher()
    student = disturbed(source, "conv")

    (miss,) = Distillation().run(student, context(student.clone())).misses

    assert miss.startswith("the outputs are already those of the teacher, the model that this build began with; name")
    before = distance(source, student)
    asked: list[str] = []

    def read(reference: str) -> Graph:
        asked.append(reference)
        return source

    taught = context(student.clone(), read_model=read)
    Distillation(epochs=20, loss="mse", teacher="big.py:build").run(student, taught)
    assert asked == ["big.py:build"]
    assert distance(source, student) < 0.5 * before


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_it_trains_in_a_process_without_gradients(switched_off: Any) -> None:
    source = teacher()
    student = disturbed(source, "conv")
    with switched_off():
        assert Distillation(epochs=2, lr=1e-2).apply(student, context(source)).changed


def test_labels_judge_where_there_are_any() -> None:
    source = teacher(classes=True)
    student = disturbed(source, "conv", "head")
    held = batches()
    labels = [run_graph(source, [feeds])[0]["y"].argmax(-1) for feeds in held]
    seen: list[int] = []

    def accuracy(predictions: Any, wanted: Any) -> float:
        seen.append(sum(map(len, wanted)))
        return float(np.mean([np.mean(y[0].argmax(-1) == label) for y, label in zip(predictions, wanted, strict=True)]))

    result = Distillation(epochs=10, lr=1e-2).run(student, context(source, held, labelled=Labelled(labels, accuracy)))

    assert result.changed
    assert set(seen) == {32}  # of twelve batches of 16 two


def test_a_loss_that_is_no_number_stops_the_build() -> None:
    source = teacher()

    with pytest.raises(CheckError, match=r"no longer a number with lr=1e\+30; lower or omit it"):
        Distillation(epochs=1, lr=1e30).run(disturbed(source, "conv"), context(source))


@pytest.mark.parametrize("options", [{}, {"lr": 1e-2}])
def test_gradients_that_are_no_numbers_stop_the_build(options: dict[str, float]) -> None:
    """The slope of Acosh at one has no end, and each batch has a sample of zeros."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    h = op.MatMul(x, op.constant(np.full((2, 3), 0.5, np.float32), "weight"))
    graph.outputs["y"] = op.Acosh(op.Add(h, op.constant(np.float32(1))))
    student = graph.clone()
    student.constants["weight"].data = np.full((2, 3), 0.4, np.float32)
    data = [{"x": np.array([[0, 0], [1, 2], [2, 1], [3, 1]], np.float32)} for _ in range(20)]

    with pytest.raises(CheckError, match="the loss is no longer a number"):
        Distillation(epochs=10, loss="mse", **options).run(student, context(graph, data))


def test_one_batch_is_enough_to_run() -> None:
    source = teacher()
    student = disturbed(source, "conv")
    before = distance(source, student)

    Distillation(epochs=10, lr=1e-2).run(student, context(source, batches(count=1, size=64)))

    assert distance(source, student) < before


def test_progress_is_told_step_by_step() -> None:
    source, told = teacher(), []

    Distillation(epochs=2, lr=1e-2).run(
        disturbed(source, "conv"), context(source, batches(5, 32), progress=lambda *told_now: told.append(told_now))
    )

    assert [steps for _, *steps in told] == [[step, 10] for step in range(1, 11)]
    assert all(re.fullmatch(r"distill: loss \S+, at best \S+ with \S+ % lost", text) for text, *_ in told)


def quantized(source: Graph, limit: int) -> Graph:
    """The network with its head in integers of a range, on a grid too coarse to be good."""
    student = source.clone()
    (gemm,) = (node for node in student.nodes if node.operator == "Gemm")
    weight, bias = gemm.inputs[1:3]
    op = Builder(student, before=gemm)
    scale = np.float32(np.abs(weight.data).max() / limit)
    bias_scale = np.float32(1e-4)
    integers = np.clip(np.round(weight.data / scale), -limit, limit).astype(np.int8)
    whole_bias = np.round(bias.data / bias_scale).astype(np.int32)
    zero, input_scale = np.array(0, np.int8), np.array(0.05, np.float32)
    on_grid = op.DequantizeLinear(op.QuantizeLinear(gemm.inputs[0], input_scale, zero), input_scale, zero)
    student.set_input(gemm, 0, on_grid)
    student.set_input(gemm, 1, op.DequantizeLinear(op.constant(integers, "integers"), np.array(scale), zero))
    student.set_input(gemm, 2, op.DequantizeLinear(op.constant(whole_bias, "whole_bias"), np.array(bias_scale)))
    for constant in (weight, bias):
        student.erase_constant(constant)
    return student


def test_integer_weights_are_trained_and_stay_integers_of_their_range() -> None:
    source = teacher()
    student = quantized(source, limit=3)
    before, held, text = distance(source, student), arrays(student), [node.operator for node in student.nodes]

    Distillation(epochs=20, lr=3e-2, loss="mse").run(student, context(source))

    verify(student)
    integers, whole_bias = student.constants["integers"].data, student.constants["whole_bias"].data
    assert [node.operator for node in student.nodes] == text
    assert set(student.constants) == set(held)
    assert (integers.dtype, whole_bias.dtype) == (np.int8, np.int32)
    assert not np.array_equal(integers, held["integers"])
    assert not np.array_equal(whole_bias, held["whole_bias"])
    assert np.abs(integers).max() == 3
    assert distance(source, student) < 0.8 * before


def test_a_model_may_have_integer_weights_alone() -> None:
    source, student = Graph(), Graph()
    for graph in (source, student):
        op, x = Builder(graph), graph.add_input("x", TensorType(DType.float32, ("batch", 2, 6, 6)))
        scale = np.array(0.1 if graph is source else 0.09, np.float32)
        weight = op.DequantizeLinear(op.constant(np.arange(-15, 15, dtype=np.int8).reshape(6, 5), "integers"), scale)
        graph.outputs["y"] = op.MatMul(x, weight)
    before = distance(source, student)

    Distillation(epochs=5, lr=0.05).run(student, context(source))

    assert distance(source, student) < 0.8 * before


def test_a_graph_through_which_nothing_can_be_learnt_is_refused() -> None:
    source = teacher()
    student = source.clone()
    (gemm,) = (node for node in student.nodes if node.operator == "Gemm")
    op = Builder(student, before=gemm)
    rounded, scale, zero = op.DynamicQuantizeLinear(gemm.inputs[0], outputs=3)
    product = op.MatMulInteger(rounded, np.ones((128, 4), np.uint8), zero)
    student.replace_uses(gemm.output, op.Mul(op.Cast(product, to=DType.float32), scale))

    with pytest.raises(UsageError, match=r"DynamicQuantizeLinear in .* computes in integers"):
        Distillation().run(student, context(source))


def test_without_data_it_says_what_to_give() -> None:
    source = teacher()

    with pytest.raises(UsageError, match="give calibration data"):
        Distillation().run(source.clone(), context(source, []))


def test_data_for_another_model_is_refused() -> None:
    source = teacher()

    with pytest.raises(ModelError, match="'x'"):
        Distillation().run(source.clone(), context(source, [{"image": np.zeros((1, 2, 6, 6), np.float32)}]))


def test_a_model_without_weights_is_refused() -> None:
    graph = Graph()
    graph.outputs["y"] = Builder(graph).Relu(graph.add_input("x", TensorType(DType.float32, ("batch", 2))))

    with pytest.raises(UsageError, match="no weights"):
        Distillation().run(graph.clone(), context(graph))


def test_a_model_without_float_outputs_is_refused() -> None:
    source = teacher()
    source.outputs["y"] = Builder(source).ArgMax(source.outputs["y"], axis=1)

    with pytest.raises(UsageError, match="no float output"):
        Distillation().run(source.clone(), context(source))


def test_outputs_that_no_gradient_reaches_are_refused() -> None:
    source = teacher()
    source.outputs["y"] = Builder(source).Cast(Builder(source).ArgMax(source.outputs["y"], axis=1), to=DType.float32)

    student = source.clone()
    student.constants["head"].data = -student.constants["head"].data

    with pytest.raises(ModelError, match="no gradient reaches the weights"):
        Distillation().run(student, context(source))


def test_a_teacher_without_numbers_is_refused() -> None:
    source = teacher()
    source.constants["head"].data = np.full((4, 128), 1e38, np.float32)

    with pytest.raises(ModelError, match="the teacher's output 'y' is not finite"):
        Distillation().run(source.clone(), context(source))


@pytest.mark.parametrize("options", [{"epochs": -1}, {"lr": -1.0}, {"temperature": -1.0}, {"loss": "l1"}])
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"option {next(iter(options))} of pass distill"):
        Distillation(**options).run(teacher(), context(teacher()))


def test_what_was_pruned_stays_zero() -> None:
    source = teacher()
    student = disturbed(source, "head", "conv")
    pruned = student.constants["head"].data.copy()
    pruned[:, ::2] = 0
    student.constants["head"].data = pruned
    before = arrays(student)
    assert Distillation(epochs=2).apply(student, context(source)).changed
    after = arrays(student)
    assert (after["head"][:, ::2] == 0).all()
    assert (after["head"][:, 1::2] != before["head"][:, 1::2]).any()


@pytest.mark.parametrize(("disturbance", "temperature"), [("some", 4.0), ("all", 1.0)])
def test_a_student_that_knows_something_learns_at_a_higher_temperature(disturbance: str, temperature: float) -> None:
    source = teacher()
    for constant in source.constants.values():
        if constant.data.shape == (4,):
            constant.data = np.zeros_like(constant.data)  # no class is much more frequent than others
    student = disturbed(source, "head")
    if disturbance == "all":
        noise = np.random.default_rng(3).standard_normal((4, 128)).astype(np.float32)
        student.constants["head"].data = noise / np.sqrt(np.float32(128))
    found: list[dict[str, np.ndarray]] = []
    for chosen in (0.0, temperature, 5 - temperature):
        copy = student.clone()
        Distillation(epochs=2, lr=1e-2, loss="kl", temperature=chosen).run(copy, context(source))
        found.append(arrays(copy))

    assert np.array_equal(found[0]["head"], found[1]["head"])
    assert not np.array_equal(found[0]["head"], found[2]["head"])


def test_costly_models_learn_from_as_many_samples_however_they_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    source = teacher()
    monkeypatch.setattr(train, "_OPERATIONS", 4e8)  # some 1,600 samples of this model
    seen = list[int]()
    for size in (4, 32):
        data = batches(320 // size, size)
        result = Distillation(lr=1e-2).run(disturbed(source, "conv"), context(source, data))
        seen.append(max(size, 8) * int(re.findall(r"(\d+) steps", result.notes[0])[0]))  # a step has 8 samples at least

    assert seen[0] < 600 * 8
    np.testing.assert_allclose(*seen, rtol=0.03)


def test_a_rate_that_makes_the_loss_many_times_as_large_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climb, "RATES", (10.0, 3e-2))
    source, told = teacher(), list[int]()
    for rise in (climb._HOPELESS, math.inf):
        monkeypatch.setattr(climb, "_HOPELESS", rise)
        steps: list[object] = []
        progress = context(source, progress=lambda *now, steps=steps: steps.append(now))
        result = Distillation(epochs=20, loss="mse").run(disturbed(source, "conv", "head"), progress)
        told.append(len(steps))
        assert result.changed

    assert told[0] < told[1]


def test_a_batch_unlike_others_ends_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(climb, "RATES", (1e-4,))
    source, data, told = teacher(classes=True), batches(20, 16), list[int]()
    data[5]["x"] *= 300
    for rise in (climb._HOPELESS, math.inf):
        monkeypatch.setattr(climb, "_HOPELESS", rise)
        steps: list[object] = []
        progress = context(source, data, progress=lambda *now, steps=steps: steps.append(now))
        Distillation(epochs=10, loss="kl").run(disturbed(source, "conv", "head"), progress)
        told.append(len(steps))

    assert told[0] == told[1]


def test_a_rate_that_brings_nothing_better_is_halved() -> None:
    source = teacher()
    student = disturbed(source, "conv", "head")
    before = distance(source, student)

    Distillation(epochs=20, lr=0.6, loss="mse", precision="float32").run(student, context(source))

    assert distance(source, student) < 0.5 * before
