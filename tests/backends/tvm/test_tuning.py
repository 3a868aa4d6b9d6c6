"""Parameters of kernels by measurement: what a file says is taken, and what is measured is true of the kernels."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.legal import legalized
from planish.backends.tvm.codegen.kernel_cache import KernelCache
from planish.backends.tvm.kernels.convolution import Convolution
from planish.backends.tvm.kernels.gemm import Gemm, tiles
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.windows import Window
from planish.backends.tvm.kernels.winograd import Plan, ways
from planish.backends.tvm.relax.configs import spelled
from planish.backends.tvm.relax.converters import linear as products
from planish.backends.tvm.tune import tasks as tuning
from planish.backends.tvm.tune.database import LONGEST, Database, Entry, read_database
from planish.backends.tvm.tune.tasks import Tuning
from planish.ir.cache_folder import VARIABLE
from planish.ir.errors import CheckError, ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.passes.legalization.origins import Origins
from planish.targets import Target
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
SQUARE = Convolution(1, 64, 64, 1, 64, Window((16, 16), (16, 16), (3, 3), *[(1, 1)] * 4), 0)
PRODUCT = Gemm((5,), 64, 40)


def tensor(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def product(op, x):
    return op.Relu(op.MatMul(x, tensor(64, 40)))


def square(op, x):
    return op.Conv(x, tensor(64, 64, 3, 3) / 24, pads=(1, 1, 1, 1))


def tuning_of(graph: Graph, target: Target, sizes: Mapping[str, int]) -> Tuning:
    return Tuning(legalized(graph, target, "tvm"), Origins.of(graph), target, sizes)


def database(target: Target, folder: Path, key: str, parameters: Mapping[str, int]) -> Path:
    """A file that asks for some parameters of a kernel."""
    folder.mkdir(exist_ok=True)
    path = folder / "tuned.json"
    Database().having(target, key, Entry(parameters=parameters, gain=1.1)).write(path)
    return path


@pytest.fixture
def built(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Compiles a graph by a file, holds it to the interpreter, and returns its kernels' names and the manifest."""

    def build(graph: Graph, file: Path, x: np.ndarray) -> tuple[set[str], Mapping]:
        monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
        manifest = write_artifact(tmp_path / "dist", graph, find_backend("tvm").tuned(file), target)
        expected = Interpreter(graph).run({"x": x})["y"]
        np.testing.assert_allclose(load(tmp_path / "dist")(x)[0], expected, rtol=1e-4, atol=1e-4)
        return {path.stem for path in KernelCache.of_user().folder.glob("*.o")}, manifest

    return build


def test_a_file_decides_on_the_tile_of_a_product(make_graph, built, target, tmp_path) -> None:
    graph = make_graph(product, 5, 64)
    last = tiles(PRODUCT, Machine.of(target))[-1]
    file = database(target, tmp_path, f"gemm {spelled(PRODUCT)}", asdict(last))
    elsewhere = database(load_target("x86-64"), tmp_path / "elsewhere", f"gemm {spelled(PRODUCT)}", {"rows": 99})
    estimated, _ = built(graph, elsewhere, tensor(5, 64))
    both, manifest = built(graph, file, tensor(5, 64))
    assert len(both) == 2 * len(estimated) == 2
    assert manifest["tuned"] == {"file": str(file), "sha256": read_database(file).digest}


def test_a_file_decides_on_the_algorithm_of_a_convolution(make_graph, built, target, tmp_path) -> None:
    machine = Machine.of(target)
    sizes = Convolution(1, 64, 64, 1, 64, SQUARE.window, machine.lanes)
    plan, tile = (next(way for way in ways(sizes, machine) if isinstance(way, Plan) == kind) for kind in (True, False))
    graph, x = make_graph(square, 1, 64, 16, 16), tensor(1, 64, 16, 16)
    for way, name in ((plan, "winograd"), (tile, "conv")):
        file = database(target, tmp_path, f"conv {spelled(sizes)}", asdict(way))
        found, _ = built(graph, file, x)
        assert any(symbol.startswith(name) for symbol in found)


def test_parameters_that_a_kernel_can_t_have(make_graph, built, target, tmp_path) -> None:
    file = database(target, tmp_path, f"gemm {spelled(PRODUCT)}", {"rows": 99, "columns": 16, "lanes": 16})
    with pytest.raises(ModelError, match=r"tuned\.json: gemm batch_dims=5 k=64 n=40 can't have .*'rows': 99"):
        built(make_graph(product, 5, 64), file, tensor(5, 64))


def test_sizes_are_spelled_without_what_is_usual() -> None:
    assert spelled(Gemm((None, 5), 64, 40, batch=1, is_packed=False)) == (
        "batch_dims=?x5 k=64 n=40 batch=1 is_packed=False"
    )
    assert spelled(SQUARE).endswith(
        "depth=64 image=16x16 result=16x16 kernel=3x3 strides=1x1 dilations=1x1 begins=1x1 ends=1x1 block=0"
    )


def test_a_database_comes_back_and_is_the_same_in_any_order(target, tmp_path) -> None:
    other = load_target("aarch64")
    entries = [(target, "b", Entry(parameters={"rows": 1}, gain=1.5)), (target, "a", Entry(parameters={}, gain=1))]
    entries.append((other, "a", Entry(parameters={"rows": 2, "columns": 3}, gain=1)))
    texts: list[bytes] = []
    for order in (entries, entries[::-1]):
        made = Database()
        for entry in order:
            made = made.having(*entry)
        made.write(tmp_path / "tuned.json")
        texts.append((tmp_path / "tuned.json").read_bytes())
        found = read_database(tmp_path / "tuned.json")
        assert (found, found.digest) == (made, made.digest)
        assert found.of(target)["b"].parameters == {"rows": 1}
        assert found.of(other)["a"].parameters == {"rows": 2, "columns": 3}
    assert texts[0] == texts[1]
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.json"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"format": 2}', "format: Input should be 1"),
        ('{"format": 1, "model": "x"}', "model: Extra inputs are not permitted"),
        (
            '{"targets": {"znver4": {"gemm": {"parameters": {"rows": "many"}, "gain": 1}}}}',
            "parameters.rows: Input should",
        ),
        ('{"targets": {"znver4": {"gemm": {"parameters": {"rows": 1}}}}}', "gain: Field required"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, fault) -> None:
    (tmp_path / "tuned.json").write_text(text)
    with pytest.raises(ModelError, match="tuned.json is no database of `planish tune`: ") as caught:
        find_backend("tvm").tuned(tmp_path / "tuned.json")
    assert fault in str(caught.value)


def test_a_file_that_is_long_or_deep_is_refused(tmp_path) -> None:
    (tmp_path / "tuned.json").write_bytes(b" " * (LONGEST + 1))
    with pytest.raises(ModelError, match=r"tuned.json is longer than 4,194,304 bytes"):
        find_backend("tvm").tuned(tmp_path / "tuned.json")
    (tmp_path / "tuned.json").write_bytes(b"[" * LONGEST)
    with pytest.raises(ModelError, match=r"tuned.json is no database of `planish tune`: Invalid JSON: recursion limit"):
        find_backend("tvm").tuned(tmp_path / "tuned.json")


def test_what_is_not_there_or_not_for_it(tmp_path) -> None:
    with pytest.raises(UsageError, match="there is no database .*nowhere.json"):
        find_backend("tvm").tuned(tmp_path / "nowhere.json")
    with pytest.raises(UsageError, match="which onnxruntime doesn't use"):
        find_backend("onnxruntime").tuned(tmp_path / "nowhere.json")


@pytest.mark.wide
def test_what_is_found_is_one_of_the_ways(make_graph, target, monkeypatch) -> None:
    """Sizes may be symbolic; kernels that are known, or that there is no time for, are left out."""
    monkeypatch.setattr(tuning, "_LEAST_SHARE", 0.0)  # however long a busy machine takes for one of them
    narrow = tensor(64, 16)

    def build(op, x):
        return op.Softmax(op.Add(op.MatMul(product(op, x), tensor(40, 16)), op.MatMul(x, narrow)))

    model = tuning_of(make_graph(build, "n", 64), target, {"n": 2})
    keys = {f"gemm batch_dims=? k={k} n={n}" for k, n in ((64, 40), (40, 16), (64, 16))}
    assert model.kernels == keys
    known = {"gemm batch_dims=? k=64 n=40"}
    findings = list(model.findings(known, time.monotonic() + 600))
    assert {finding.kernel for finding in findings} == keys - known
    for finding in findings:
        k = int(finding.kernel.split("k=")[1].split()[0])
        allowed = [asdict(tile) for tile in tiles(Gemm((None,), k, 16), Machine.of(target))]
        assert finding.estimated == allowed[0]
        assert finding.fastest in allowed
        assert (finding.gain > 1) == (finding.fastest != finding.estimated)
        assert finding.layer == "layer"
    assert not list(model.findings((), time.monotonic() - 1))


def test_a_way_that_computes_something_else_is_named(make_graph, target, monkeypatch) -> None:
    right = products.packed
    monkeypatch.setattr(
        products, "packed", lambda weights, tile, by: right(weights if tile.rows > 1 else weights * 2, tile, by)
    )
    tuning = tuning_of(make_graph(lambda op, x: op.MatMul(x, tensor(64, 16)), 5, 64), target, {})
    with pytest.raises(CheckError, match=r"layer: gemm batch_dims=5 k=64 n=16 is off by 1\.0e\+00 with {'rows': 1"):
        list(tuning.findings((), time.monotonic() + 600))


def test_files_are_read_by_people(target, tmp_path) -> None:
    file = database(target, tmp_path, "gemm batch_dims=1", {"rows": 2, "columns": 16})
    [(machine, kernels)] = json.loads(file.read_text())["targets"].items()
    assert machine.startswith(f"{target.mcpu} lanes=")
    assert kernels == {"gemm batch_dims=1": {"gain": 1.1, "parameters": {"columns": 16, "rows": 2}}}
