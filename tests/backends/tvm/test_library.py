"""What is written, cached, checked and loaded: kernels, weights, and calls from several threads."""

import gc
import json
import mmap
import os
import threading
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.backends.tvm.codegen.build import Build
from planish.backends.tvm.codegen.hoisting import hoisted
from planish.backends.tvm.codegen.kernel_cache import KernelCache
from planish.backends.tvm.kernels import epilogue, vector_math
from planish.backends.tvm.runtime.program import LIBRARY, is_loaded, use_threads
from planish.backends.tvm.runtime.weights import TABLE, read_weights, write_weights
from planish.ir.cache_folder import VARIABLE
from planish.ir.errors import CheckError, UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.passes.legalization.origins import Origins
from planish.targets import Target

K_PER_DOT = 64
MEMORY = Path("/proc/self/statm")


def layer(op, x):
    weights = np.random.default_rng(0).standard_normal((K_PER_DOT, K_PER_DOT), np.float32)
    return op.Softmax(op.Relu(op.MatMul(x, weights)))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelCache:
    """A cache of this test's own."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return KernelCache.of_user()


@pytest.fixture
def graph(make_graph) -> Graph:
    return make_graph(layer, 4, K_PER_DOT)


def build(graph: Graph, target: Target, folder: Path) -> None:
    """Compile a graph in this process, where tests can reach the compiler."""
    folder.mkdir(exist_ok=True)
    Build(legalized(graph, target, "tvm"), Origins.of(graph), target).write(folder)


def test_a_kernel_is_compiled_once(graph, make_graph, cache, target, tmp_path, monkeypatch) -> None:
    write_artifact(tmp_path / "one", graph, find_backend("tvm"), target)
    monkeypatch.setattr(tvm.tirx, "build", lambda *_, **__: pytest.fail("it compiles again"))
    longer = make_graph(lambda op, x: layer(op, layer(op, x)), 4, K_PER_DOT)
    build(longer, target, tmp_path / "two")
    assert not cache.unchecked(path.stem for path in cache.folder.glob("*.o") if path.stem.startswith("gemm"))


def test_a_kernel_that_llvm_spoils_is_optimized_less(graph, cache, target, tmp_path, monkeypatch) -> None:
    """LLVM 22 spoils means of pools for an Alder Lake: it writes uses of values that aren't defined there."""
    compile = tvm.tirx.build

    def spoiling(module, target):
        if target.attrs.get("opt-level") is None:
            raise RuntimeError("LLVM module verification failed")
        return compile(module, target=target)

    monkeypatch.setattr(tvm.tirx, "build", spoiling)
    build(graph, target, tmp_path / "dist")
    assert len(list(cache.folder.glob("*.o"))) == 2


def test_a_kernel_that_is_wrong_stops_the_build(make_graph, cache, target, tmp_path, monkeypatch) -> None:
    wrong: Mapping = {**vector_math.ELEMENTS, "Relu": lambda get, x: x - x}
    monkeypatch.setattr(epilogue, "ELEMENTS", wrong)
    graph = make_graph(layer, 5, K_PER_DOT)  # of a size of its own: templates remember what they gave
    for _ in range(2):
        with pytest.raises(CheckError, match="layer: TVM's kernel up to Relu gives numbers that are off by"):
            build(graph, target, tmp_path / "dist")


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_kernels_are_checked_in_parts_that_fit_into_memory(
    make_graph, cache, target, tmp_path, monkeypatch, most
) -> None:
    """A wrong kernel is found where it stands, in whatever part; those behind it are right, for what they are given."""
    wrong = {**vector_math.ELEMENTS, "Tanh": vector_math.ELEMENTS["Sigmoid"]}
    monkeypatch.setattr(epilogue, "ELEMENTS", wrong)
    monkeypatch.setattr("planish.backends.tvm.codegen.kernel_check._MOST", most)
    weights = np.random.default_rng(0).standard_normal((K_PER_DOT, K_PER_DOT), np.float32)

    def made(op, x):
        y = op.Softmax(op.MatMul(x, weights))
        return op.Softmax(op.Tanh(op.MatMul(op.Add(y, x), weights)))

    with pytest.raises(CheckError, match="layer: TVM's kernel up to Tanh"):
        build(make_graph(made, 6, K_PER_DOT), target, tmp_path / "dist")
    monkeypatch.setattr(epilogue, "ELEMENTS", vector_math.ELEMENTS)
    build(make_graph(made, 7, K_PER_DOT), target, tmp_path / "dist")


def kernel(symbol: str, cache: KernelCache, content: bytes = b"whole") -> bytes:
    return cache.kernel(symbol, lambda: content)


def test_what_a_compiler_fails_over_is_no_kernel(cache) -> None:
    def fail() -> bytes:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        cache.kernel("kernel", fail)
    assert not list(cache.folder.iterdir())
    assert kernel("kernel", cache) == b"whole"


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: held[:-1],
        lambda held: b"",
        lambda held: bytes([held[0] ^ 1]) + held[1:],
        lambda held: held[:-1] + bytes([held[-1] ^ 1]),
    ],
)
def test_a_damaged_kernel_is_made_again(cache, damage) -> None:
    kernel("kernel", cache)
    path = cache.folder / "kernel.o"
    path.write_bytes(damage(path.read_bytes()))
    assert kernel("kernel", cache, b"again") == b"again"
    assert kernel("kernel", cache, b"once more") == b"again"


def test_a_kernel_under_another_s_name_is_none(cache) -> None:
    kernel("kernel", cache)
    (cache.folder / "kernel.o").rename(cache.folder / "other.o")
    assert kernel("other", cache, b"other") == b"other"


def test_old_kernels_are_dropped_and_those_of_a_clock_that_was_ahead_grow_old(cache, monkeypatch) -> None:
    kernel("old", cache)
    now = (cache.folder / "old.o").stat().st_mtime
    ahead = 4102444800.0  # the year 2100
    monkeypatch.setattr("time.time", lambda: ahead)
    kernel("new", cache)
    os.utime(cache.folder / "new.o", (ahead, ahead))
    cache.drop_old()
    assert [path.name for path in cache.folder.iterdir()] == ["new.o"]
    monkeypatch.setattr("time.time", lambda: now)
    cache.drop_old()
    assert (cache.folder / "new.o").stat().st_mtime == now


def test_a_cache_that_can_t_be_made_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UsageError, match=f"name another folder in {VARIABLE}"):
        KernelCache.of_user()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_weights_come_back(tmp_path, dtype) -> None:
    tensors = [tvm.runtime.empty((3, size), dtype) for size in (5, 64)]
    for tensor in tensors:
        octets = tensor._create_view((tensor.numel() * tensor.dtype.itemsize,), dtype="uint8")
        octets.copyfrom(np.arange(octets.shape[0], dtype=np.uint8) % 2)
    write_weights(tmp_path, tensors)
    for tensor, read in zip(tensors, read_weights(tmp_path), strict=True):
        assert (str(read.dtype), tuple(read.shape)) == (dtype, tensor.shape)
        assert read.data_ptr() % 64 == 0


def test_results_are_the_callers_own(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Add(x, np.ones((200, 200), np.float32)), 200, 200)
    graph.outputs["x"] = graph.inputs[0]
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    executable, x = load(tmp_path / "dist"), np.zeros((200, 200), np.float32)
    for _ in range(2):
        y, same = executable(x)
        assert np.all(y == 1) and np.all(same == 0)
        y[:], same[:] = 7, 7
    assert np.all(x == 0)


def test_results_keep_nothing_of_the_memory_that_the_next_inputs_are_copied_into(make_graph, target, tmp_path) -> None:
    graph = make_graph(lambda op, x: op.Neg(x), "rows", 200)
    graph.outputs["x"] = graph.inputs[0]
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    executable, memory = load(tmp_path / "dist"), np.zeros(300 * 200 + 1, np.float32)
    inputs = [memory[1 : 1 + rows * 200].reshape(rows, 200) for rows in (200, 100, 300)]  # of which none is aligned
    found = []
    for number, x in enumerate(inputs):
        x[:] = number
        found.append(executable(x))
    for number, (y, same) in enumerate(found):
        assert np.all(y == -number) and np.all(same == number)


def test_threads_call_it_side_by_side(graph, target, tmp_path) -> None:
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    executable = load(tmp_path / "dist", threads=1)
    inputs = np.random.default_rng(1).standard_normal((4, 4, K_PER_DOT), np.float32)
    expected = [executable(x)[0] for x in inputs]
    found: list[list[np.ndarray]] = [[] for _ in inputs]

    def call(index: int) -> None:
        found[index] += [executable(inputs[index])[0] for _ in range(50)]

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(y, wanted) for ys, wanted in zip(found, expected, strict=True) for y in ys)
    assert all(len(ys) == 50 for ys in found)


def test_as_many_threads_run_as_are_asked_for(monkeypatch) -> None:
    """TVM makes a pool for each thread that calls it, by itself with half as many workers as there are processors."""
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    found: list[int] = []

    def ask() -> None:
        for number in (3, 5, 1, 4):
            use_threads(number)
            found.append(tvm.get_global_func("runtime.NumThreads")())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [3, 5, 1, 4]


def mapped_libraries() -> set[str]:
    """The libraries of artifacts that this process has in memory, those of other tests among them."""
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "model.so" in line}


def test_a_library_is_one_models_alone_and_goes_with_it(graph, make_graph, target, tmp_path) -> None:
    folder, x, others = tmp_path / "dist", np.ones((4, K_PER_DOT), np.float32), mapped_libraries()
    write_artifact(folder, graph, find_backend("tvm"), target)
    one, other = load(folder), load(folder)
    kept, copied = one(x)[0], other(x)[0]
    expected = kept.copy()
    assert is_loaded(folder / LIBRARY)
    del one, other
    assert not is_loaded(folder / LIBRARY)
    assert mapped_libraries() <= others
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(copied, expected)
    write_artifact(folder, make_graph(lambda op, x: op.Neg(layer(op, x)), 4, K_PER_DOT), find_backend("tvm"), target)
    np.testing.assert_array_equal(load(folder)(x)[0], -expected)


@pytest.mark.skipif(not MEMORY.exists(), reason="the system doesn't say how much memory a process has")
@pytest.mark.wide
def test_hoisted_constants_are_kept_by_nobody() -> None:
    def hoist() -> int:
        """Memory in use after a constant of 32 MB was hoisted, in bytes."""
        builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((1, 2048), "float32"))
        with builder.function("main", [x]):
            builder.emit_func_output(builder.emit(relax.op.matmul(x, relax.const(np.ones((2048, 4096), np.float32)))))
        hoisted(builder.get())
        del builder, x
        gc.collect()
        return int(MEMORY.read_text().split()[1]) * mmap.PAGESIZE

    first = hoist()
    assert max(hoist() for _ in range(3)) - first < 32 << 20


def test_weights_are_stored_once(make_graph, target, tmp_path) -> None:
    """As kernels read them, without the numbers that they were packed from; depthwise ones, which grow, plain."""
    random, shapes = np.random.default_rng(0), ((64, 64, 3, 3), (64, 1, 5, 5), (64, 208))
    layers = [random.integers(-127, 128, shape).astype(np.int8) for shape in shapes]

    def number(op, weights, axis):
        return op.DequantizeLinear(weights, np.full(weights.shape[axis], 0.01, np.float32), axis=axis)

    def byte(op, x):
        return op.DequantizeLinear(op.QuantizeLinear(x, np.float32(0.1), np.uint8(128)), np.float32(0.1), np.uint8(128))

    def network(op, x):
        x = op.Conv(byte(op, x), number(op, layers[0], 0), strides=(2, 2))
        x = op.Conv(byte(op, x), number(op, layers[1], 0), pads=(2, 2, 2, 2), group=64)
        return op.MatMul(byte(op, op.Flatten(op.GlobalAveragePool(x))), number(op, layers[2], 1))

    graph = make_graph(network, 1, 64, 9, 9)
    write_artifact(tmp_path, graph, Tvm(checks_kernels=False), target)
    held = {entry["offset"]: prod(entry["shape"]) for entry in json.loads((tmp_path / TABLE).read_text())}
    assert sum(held.values()) <= 1.15 * sum(array.size for array in layers)
    x = random.standard_normal((1, 64, 9, 9), np.float32)
    (expected,) = Interpreter(graph).run({graph.inputs[0].name: x}).values()
    np.testing.assert_allclose(load(tmp_path)(x)[0], expected, rtol=1e-3, atol=np.abs(expected).max() / 50)
