"""The face for Python: trace, optimize, compile, load, as the README shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import planish
from planish.backends import find_backend
from planish.backends.artifact import write_artifact
from planish.driver.reporter import Reporter
from planish.ir.errors import UsageError
from planish.ir.graph import Location
from planish.ir.interpreter import Interpreter
from planish.ir.text import print_graph
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target


class Net(nn.Module):
    """A convolution with normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, image):
        features = torch.relu(self.norm(self.conv(image)))
        return self.head(features.mean((2, 3)))


@dataclass(frozen=True)
class Remember(planish.Pass):
    """Keeps the calibration data that it is offered."""

    name: ClassVar[str] = "remember"
    effect: ClassVar[planish.Effect] = planish.Effect.EXACT
    seen: ClassVar[Sequence[Mapping[str, np.ndarray]]] = ()

    def run(self, graph, context) -> planish.PassResult:
        Remember.seen = context.calibration
        return planish.PassResult()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> planish.Graph:
    batch = torch.export.Dim("batch")
    return planish.trace(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


def expected(net: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(images)).numpy()


def test_trace_optimize_compile_and_run(net, graph, images) -> None:
    text = print_graph(graph)
    result = planish.optimize(graph, "cleanup,fuse", target="x86-64")
    assert print_graph(graph) == text
    assert "BatchNormalization" not in [node.operator for node in result.graph.nodes]
    assert "fuse-batch-norm" in [record.name for record in result.records if record.result.changed]

    executable = planish.compile(result.graph, backend="onnxruntime", target="x86-64")
    (output,) = executable(images)
    np.testing.assert_allclose(output, expected(net, images), rtol=1e-3, atol=1e-4)
    (by_name,) = executable(image=images)
    np.testing.assert_array_equal(by_name, output)
    (fewer,) = executable(images[:5])
    np.testing.assert_allclose(fewer, output[:5], rtol=1e-4, atol=1e-5)


def test_an_artifact_loads(net, graph, images, tmp_path) -> None:
    write_artifact(tmp_path / "dist", graph, find_backend("onnxruntime"), load_target("x86-64"))
    executable = planish.load(tmp_path / "dist")
    assert [(port.name, port.dtype, port.shape) for port in executable.inputs] == [
        ("image", "float32", ("batch", 3, 8, 8))
    ]
    np.testing.assert_allclose(executable(images)[0], expected(net, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "form",
    [
        lambda images: [{"image": images[:8]}, {"image": images[8:]}],
        lambda images: [images[:8], images[8:]],
        lambda images: ([half] for half in (images[:8], images[8:])),
        lambda images: [
            (half, np.zeros(8)) for half in (images[:8], images[8:])
        ],  # with labels, as evaluation has them
        lambda images: [{"image": half, "labels": np.zeros(8)} for half in (images[:8], images[8:])],
    ],
    ids=["by name", "arrays", "rows, generated", "pairs", "labelled"],
)
def test_calibration_data_comes_by_name_or_in_order(graph, images, form) -> None:
    planish.optimize(graph, f"{__name__}:Remember", data=form(images), target="x86-64", verify="none")
    first, second = Remember.seen
    assert first.keys() == second.keys() == {"image"}
    np.testing.assert_array_equal(np.concatenate([first["image"], second["image"]]), images)


def test_quantization_calibrates_on_it(graph, images) -> None:
    result = planish.optimize(graph, "cleanup,fuse,quantize{scheme=int8}", data=[images], target="x86-64-avx2-vnni")
    assert result.records[-1].result.changed
    assert 0 < result.records[-1].drift < 0.2


def test_data_that_does_not_fit_is_refused(graph, images) -> None:
    with pytest.raises(planish.PlanishError, match="data, batch 1: input 'image' must be float32"):
        planish.optimize(graph, "cleanup", data=[{"image": images}, {"image": images[:, :2]}])
    with pytest.raises(
        planish.PlanishError, match="data, batch 0: the model has no input 'imag'; did you mean 'image'"
    ):
        planish.optimize(graph, "cleanup", data=[{"imag": images}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": "claenup"}, "unknown pass 'claenup'; did you mean 'cleanup'"),
        ({"pipeline": "cleanup", "target": "x86-65"}, "x86-65"),
    ],
)
def test_misspellings_are_refused(graph, options, message: str) -> None:
    with pytest.raises(planish.PlanishError, match=message):
        planish.optimize(graph, **options)


def test_an_unknown_backend_is_refused(graph) -> None:
    with pytest.raises(planish.PlanishError, match="unknown backend 'onnxrntime'; did you mean 'onnxruntime'"):
        planish.compile(graph, backend="onnxrntime")


def test_how_much_is_verified_is_up_to_the_user(graph) -> None:
    for verify, checked in (("numeric", True), ("structure", False), ("none", False)):
        (record,) = planish.optimize(graph, "dce", verify=verify, target="x86-64").records
        assert (record.drift is not None) is checked


def test_a_rule_and_a_pass_of_ones_own(graph, tmp_path, monkeypatch) -> None:
    """Both are written as in the documentation, from `planish` alone."""
    (tmp_path / "passes_for_api.py").write_text(
        "from planish import RewriteRule\n"
        "no_relu = RewriteRule('no-relu', lambda op, x: op.Relu(x), lambda op, x: op.Max(x, 0.0))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (record,) = planish.optimize(graph, "passes_for_api:no_relu", target="x86-64").records
    assert record.result.counts == {"no-relu": 1}


def test_what_is_written_is_read(graph, tmp_path) -> None:
    from planish.ir.storage import save

    save(graph, tmp_path / "net.planish")
    assert print_graph(planish.read(tmp_path / "net.planish")) == print_graph(graph)
    with pytest.raises(planish.PlanishError, match=r"nothing.planish"):
        planish.read(tmp_path / "nothing.planish")


LACKED = (DType.float4_e2m1fn, DType.float6_e2m3fn, DType.float6_e3m2fn)


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.is_foreign], ids=str)
def test_every_element_type_goes_all_the_way(dtype: DType) -> None:
    """Inputs, outputs, weights and what lies between: through passes, checks, and the runtime where it has the type."""
    graph = planish.Graph()
    op = planish.Builder(graph, location=Location("layer"))
    x = graph.add_input("x", TensorType(DType.float32, ("n", 4)))
    small = graph.add_input("small", TensorType(dtype, ("n", 4)))
    numbers = np.resize(np.array([0.5, 1, 2, 1] if dtype.is_float else [0, 1, 1, 0]), (4, 4)).astype(dtype.numpy)
    weight = op.constant(numbers, "weight")
    y = op.MatMul(x, op.Mul(op.Cast(weight, to=DType.float32), 1.0))
    if dtype not in (DType.bfloat16, DType.float8_e8m0fnu):  # which aren't quantized to
        quantized = op.QuantizeLinear(
            op.MatMul(y, op.DequantizeLinear(weight, np.float32(0.5))), np.float32(0.5), output_dtype=dtype
        )
        y = op.DequantizeLinear(quantized, np.float32(0.5))
    y = op.Add(y, op.Cast(op.Cast(small, to=dtype), to=DType.float32))
    graph.outputs = {"y": y, "cast": op.Cast(y, to=dtype)}
    feeds = {"x": np.float32([[1, 2, 0, 0.5]]), "small": numbers[:1]}
    result = planish.optimize(graph, "cleanup,fuse").graph
    wanted = list(Interpreter(graph).run(feeds).values())
    assert [array.dtype for array in wanted] == [np.float32, dtype.numpy]
    if dtype in LACKED:
        with pytest.raises(planish.PlanishError, match=f"^layer: onnxruntime can't run .* of .*{dtype}"):
            planish.compile(result, backend="onnxruntime", target="native")
        return
    for array, got in zip(
        wanted, planish.compile(result, backend="onnxruntime", target="native")(**feeds), strict=True
    ):
        assert got.tobytes() == array.tobytes()


def test_a_graph_is_written_in_the_form_that_its_name_says(graph: planish.Graph, tmp_path) -> None:
    for name in ("net.onnx", "net.planish"):
        planish.write(graph, tmp_path / name)
        assert planish.read(tmp_path / name).inputs[0].shape == graph.inputs[0].shape
    with pytest.raises(UsageError, match=r"net\.pb must end in \.onnx or \.planish"):
        planish.write(graph, tmp_path / "net.pb")


def test_a_file_and_a_module_are_optimized_as_they_are(net: nn.Module, graph: planish.Graph, tmp_path: Path) -> None:
    planish.write(graph, tmp_path / "net.onnx")
    steps = ["cleanup", {"fuse": {"without": ["fuse-batch-norm"]}}]
    kept = [planish.optimize(tmp_path / "net.onnx", steps), planish.optimize(net, torch.zeros(2, 3, 8, 8), steps)]
    assert ["BatchNormalization" in {node.operator for node in it.graph.nodes} for it in kept] == [True, True]
    with pytest.raises(UsageError, match=r"\(module, example inputs, pipeline\), not \(Net, str\)"):
        planish.optimize(net, "cleanup")


def test_an_executable_takes_a_dict(graph: planish.Graph) -> None:
    image = np.ones((2, 3, 8, 8), np.float32)
    executable = planish.compile(graph)
    (by_name,), (by_position,) = executable({"image": image}), executable(image)
    assert (by_name == by_position).all()
    assert repr(executable) == "<OnnxRuntimeExecutable image: float32[batch, 3, 8, 8] -> output: float32[batch, 4]>"


def test_what_passes_did_is_told_as_on_the_command_line(graph: planish.Graph) -> None:
    with pytest.warns(UserWarning, match="fuse-gelu changed nothing"):
        result = planish.optimize(graph, "fuse-batch-norm,fuse-gelu")
    assert result.warnings == ("fuse-gelu changed nothing",)
    assert repr(result) == f"<Optimized {result.graph!r}: 1 of 2 passes changed it, 1 warnings>"
    assert [line.split()[0] for line in str(result).splitlines()[1:]] == ["pass", "fuse-batch-norm", "warning:"]


def test_data_may_be_one_batch(graph: planish.Graph) -> None:
    image = np.ones((2, 3, 8, 8), np.float32)
    for data in (image, {"image": image}, [image]):
        planish.optimize(graph, [Remember()], data=data, verify="none", reporter=Reporter())
        assert all(list(batch) == ["image"] for batch in Remember.seen)
        np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in Remember.seen]), image)


def test_the_package_says_what_it_has() -> None:
    assert set(planish.__all__) < set(dir(planish))
    assert planish.__version__.startswith("0.")
    assert "import_module" not in dir(planish)
