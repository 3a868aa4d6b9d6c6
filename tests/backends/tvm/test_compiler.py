"""A compiler that dies ends nothing else: the cause is told, a plainer kernel steps in, and a reproducer is left."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("tvm")

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.base import CompilerWarning
from planish.backends.tvm.compiler import client as compiler
from planish.driver.cli import app
from planish.ir.cache_folder import VARIABLE
from planish.ir.errors import CheckError, TargetError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.storage import save
from planish.passes.reproducer import read_reproducer

RNG = np.random.default_rng(0)
PLANT = '''
"""Imported by every process: where one of the modules below is imported, it asks LLVM for what no machine here \
has (AMX), or computes something else."""

import importlib.abc
import importlib.util
import os
import sys


def unselectable():
    from tvm import tirx
    from tvm.script.ir_builder import tirx as T

    tiles = [tirx.const(number, "uint8") for number in range(3)]
    T.evaluate(tirx.call_llvm_intrin("void", "llvm.x86.tdpbssd", *tiles))


def int8_dot(module):
    for kind in module.Int8Dot.__subclasses__():
        kind.multiply_add = lambda *operands, added=kind.multiply_add: (unselectable(), added(*operands))[1]


def vector_math(module):
    module.ELEMENTS["Tanh"] = lambda get, x, tanh=module.ELEMENTS["Tanh"]: (unselectable(), tanh(get, x))[1]


def epilogue(module):
    module.ELEMENTS = {**module.ELEMENTS, "Tanh": module.ELEMENTS["Sigmoid"]}


def library(module):
    build = module.tvm.tirx.build

    def aborting(compiled, target):
        (kernel,) = compiled.get_global_vars()
        return os.abort() if kernel.name_hint.startswith("cumsum") else build(compiled, target=target)

    module.tvm.tirx.build = aborting


class Plant(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        planted = os.environ.get("PLANTED", "")
        if not planted or name.rpartition(".")[2] != planted or not name.startswith("planish.backends.tvm"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), globals()[planted](module))
        return spec


sys.meta_path.insert(0, Plant())
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all that a build leaves: caches and temporary files."""
    for name in ("cache", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Plants a fault that new compilers find; no other process goes on."""
    (tmp_path / "sitecustomize.py").write_text(PLANT)

    def plant(fault: str) -> None:
        compiler._end_all()
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("PLANTED", fault)

    yield plant
    compiler._end_all()


@pytest.fixture
def graph(make_graph: Callable[..., Graph]) -> Graph:
    """A product of bytes, one in float32 with tanh behind it, and a sum that only TVM has a kernel for."""
    weights = RNG.integers(-63, 64, (64, 32)).astype(np.int8)
    scale, floats = np.full(32, 0.01, np.float32), RNG.standard_normal((32, 48), np.float32)

    def build(op, x):
        x = op.DequantizeLinear(op.QuantizeLinear(x, np.float32(0.05), np.uint8(128)), np.float32(0.05), np.uint8(128))
        y = op.MatMul(x, op.DequantizeLinear(weights, scale, axis=1))
        return op.CumSum(op.Tanh(op.MatMul(op.Relu(y), floats)), np.array(1))

    return make_graph(build, 5, 64)


@pytest.fixture
def small(make_graph: Callable[..., Graph]) -> Graph:
    """A sum that only TVM has a kernel for, which takes the least time to build."""
    return make_graph(lambda op, x: op.CumSum(x, np.array(1)), 5, 64)


def reproducer_in(text: str) -> Path:
    (path,) = set(re.findall(r"planish opt (\S+)", text))
    return Path(path)


def compiled(graph: Graph, target, folder: Path) -> list[str]:
    """What a build warns of; its results are the interpreter's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CompilerWarning)
        write_artifact(folder / "dist", graph, find_backend("tvm"), target)
    x = RNG.standard_normal((5, 64)).astype(np.float32)
    (expected,) = Interpreter(graph).run({"x": x}).values()
    np.testing.assert_allclose(load(folder / "dist")(x)[0], expected, rtol=1e-3, atol=1e-3)
    return [str(warning.message) for warning in caught if warning.category is CompilerWarning]


def left_in(folder: Path) -> set[str]:
    """What is there besides reproducers, artifacts and whole kernels."""
    drafts = {path.name for path in (folder / "cache" / "kernels").glob("*") if path.name.startswith((".", "tmp"))}
    return drafts | {
        path.name for path in (folder / "tmp").iterdir() if not path.name.startswith("planish-reproducer-")
    }


@pytest.mark.parametrize(
    ("planted", "kernel", "instead"),
    [
        pytest.param("int8_dot", "integer_gemm_", "without the machine's special instructions", marks=pytest.mark.wide),
        pytest.param("vector_math", "gemm_", "TVM's own kernels take its place", marks=pytest.mark.wide),
    ],
)
def test_a_plainer_kernel_takes_the_place_of_one_that_llvm_dies_over(
    graph, target, folder, plant, planted, kernel, instead
) -> None:
    plant(planted)
    (told,) = compiled(graph, target, folder)
    assert re.search(rf"layer: TVM's compiler died over the kernel {kernel}\w+: LLVM ERROR: Cannot select: .*SIG", told)
    assert instead in told
    case = reproducer_in(told)
    assert len(list(read_reproducer(case).graph.nodes)) < len(list(graph.nodes))
    again = CliRunner().invoke(app, ["opt", str(case)])
    assert again.exit_code == 6, again.output
    assert f"died over the kernel {kernel}" in " ".join(again.stderr.split())
    assert left_in(folder) == set()


@pytest.mark.wide
def test_a_kernel_that_is_wrong_ends_the_build_and_fails_again(graph, target, folder, plant) -> None:
    plant("epilogue")
    with pytest.raises(CheckError, match="layer: TVM's kernel up to Tanh gives numbers that are off") as caught:
        write_artifact(folder / "dist", graph, find_backend("tvm"), target)
    case = reproducer_in(str(caught.value))
    for arguments in (
        ["opt", case],
        ["bisect", case],
        ["reduce", case, "-o", folder / "small"],
        ["opt", folder / "small"],
    ):
        again = CliRunner().invoke(app, list(map(str, arguments)))
        if arguments[0] == "reduce":
            assert again.exit_code == 0, again.output
            continue
        assert again.exit_code == 4, again.output
        assert "layer: TVM's kernel up to Tanh gives numbers that are off" in " ".join(again.stderr.split())
    assert len(read_reproducer(folder / "small").graph) < len(graph)


@pytest.mark.wide
def test_where_there_is_no_plainer_kernel_the_build_ends(graph, target, folder, plant) -> None:
    plant("library")
    with pytest.raises(
        TargetError, match=r"layer: TVM's compiler died over the kernel cumsum_\w+: .*SIGABRT"
    ) as caught:
        write_artifact(folder / "dist", graph, find_backend("tvm"), target)
    assert not (folder / "dist").exists()
    again = CliRunner().invoke(app, ["opt", str(reproducer_in(str(caught.value)))])
    assert again.exit_code == 6
    assert left_in(folder) == set()


@pytest.mark.wide
def test_where_there_is_no_plainer_kernel_auto_takes_the_other_backend(small, folder, plant, monkeypatch) -> None:
    plant("library")
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    save(small, folder / "net.planish")
    built = CliRunner().invoke(app, ["build", str(folder / "net.planish"), "-b", "auto", "-o", str(folder / "dist")])
    assert built.exit_code == 0, built.output
    assert "tvm is left out: layer: TVM's compiler died over the kernel cumsum_" in " ".join(built.stderr.split())
    assert left_in(folder) == set()


def test_a_linker_that_dies_is_told_with_its_last_words(small, target, folder, monkeypatch) -> None:
    linker = folder / "c++"
    linker.write_text("#!/bin/sh\necho 'the linker is out of luck' >&2\nkill -ABRT $$\n")
    linker.chmod(0o700)
    monkeypatch.setenv("CXX", str(linker))
    with pytest.raises(
        TargetError, match=r"TVM can't compile the model for native: .*the linker is out of luck"
    ) as caught:
        write_artifact(folder / "dist", small, find_backend("tvm"), target)
    again = CliRunner().invoke(app, ["opt", str(reproducer_in(str(caught.value)))])
    assert again.exit_code == 6
    assert "the linker is out of luck" in again.stderr
    monkeypatch.delenv("CXX")
    assert CliRunner().invoke(app, ["opt", str(reproducer_in(str(caught.value)))]).exit_code == 0
    assert left_in(folder) == set()


@pytest.mark.wide
def test_tuning_ends_over_a_kernel_that_is_died_over(graph, folder, plant) -> None:
    plant("vector_math")
    save(graph, folder / "net.planish")
    tuned = CliRunner().invoke(
        app, ["tune", str(folder / "net.planish"), "-o", str(folder / "tuned.json"), "-p", "cse"]
    )
    assert tuned.exit_code == 6, tuned.output
    told = " ".join(tuned.stderr.split())
    assert "warning: layer: TVM's compiler died over the kernel gemm_" in told
    assert "error: TVM's compiler died over layer: gemm batch_dims=5 k=32 n=48: LLVM ERROR: Cannot select" in told
    assert left_in(folder) == set()


def test_a_bug_over_there_is_told_as_one(folder) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'nonsense'") as caught:
        compiler.ask({"work": "nonsense"}, folder)
    assert "Traceback" in caught.value.__notes__[0]


@pytest.mark.wide
def test_a_process_gives_way_to_a_new_one_after_enough_work(small, target, folder, monkeypatch) -> None:
    def serving() -> int:
        write_artifact(folder / "dist", small, find_backend("tvm"), target)
        process = compiler._taken()
        compiler._lay_by(process)
        return process._process.pid

    compiler._end_all()
    first = serving()
    assert serving() == first
    monkeypatch.setattr(compiler, "_MOST_REQUESTS", 1)
    assert serving() != first


@pytest.mark.wide
def test_a_process_that_is_left_alone_erases_its_own_folder_and_no_other(folder) -> None:
    scratch, kept = folder / "tmp" / "scratch", folder / "tmp" / "kept"
    scratch.mkdir()
    kept.touch()
    for asked in (False, True):
        process = compiler._Process()
        if asked:
            with pytest.raises(RuntimeError):
                process.ask(
                    {"work": "nothing", "environment": dict(os.environ), "folder": ".", "scratch": str(scratch)}, print
                )
        process._process.stdin.close()
        process._process.wait(60)
        assert (kept.exists(), scratch.exists()) == (True, not asked)


@pytest.mark.wide
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_work(small, folder, number) -> None:
    """And the process that does it, with the linker that it has started; it erases what is left even after a kill."""
    linker = folder / "c++"
    linker.write_text(f"#!/bin/sh\necho $PPID > {folder}/parent\necho $$ > {folder}/linking\nexec sleep 600\n")
    linker.chmod(0o700)
    save(small, folder / "net.planish")
    start = "from planish.driver.cli import main; main()"
    command = [sys.executable, "-c", start, "build", str(folder / "net.planish"), "-b", "tvm"]
    quiet = {"ORT_DISABLE_TELEMETRY": "1"}  # which would write a file
    environment = {**os.environ, **quiet, "CXX": str(linker), "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen(
        [*command, "-o", str(folder / "dist")], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "linking").exists() or not (folder / "linking").read_text().strip():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (130, 128 + number, -number)
    deadline = time.monotonic() + 60
    while _lives(folder / "parent"):
        assert time.monotonic() < deadline, "the compiler's process goes on"
        time.sleep(0.01)
    if number != signal.SIGKILL:  # after which the folders of the build itself stay, too
        assert not _lives(folder / "linking")
        assert left_in(folder) == set()
    assert not list((folder / "tmp").glob("*/graph"))


def _lives(file: Path) -> bool:
    """Whether the process whose number is in a file does something; one whose exit code nobody asks for is a zombie."""
    status = Path("/proc", file.read_text().strip(), "status")
    try:
        return "zombie" not in status.read_text()
    except OSError:
        return False


@pytest.mark.wide
def test_a_build_tells_of_a_plainer_kernel(graph, folder, plant) -> None:
    plant("int8_dot")
    save(graph, folder / "net.planish")
    built = CliRunner().invoke(app, ["build", str(folder / "net.planish"), "-b", "tvm", "-o", str(folder / "dist")])
    assert built.exit_code == 0, built.output
    told = " ".join(built.stderr.split())
    assert "warning: layer: TVM's compiler died over the kernel integer_gemm_" in told
    assert "see it again: planish opt " in told
