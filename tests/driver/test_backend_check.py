"""A backend that computes something else is found out, with the layer; one that only rounds otherwise isn't accused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.base import Backend, Executable, Port
from planish.driver import backend_check
from planish.driver.backend_check import BackendCheck
from planish.driver.debugging import find_fault, shrink
from planish.driver.optimize import optimize_file
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.errors import CheckError
from planish.ir.graph import Graph, Location, Node
from planish.ir.numerics import FLOATS, Tolerance
from planish.ir.types import DType, TensorType
from planish.passes.legalization.expansions.integers import MATMUL_NBITS
from planish.passes.reproducer import read_reproducer
from planish.targets import Target
from planish.targets.load import load_target


class Other(Backend):
    """ONNX Runtime, for a graph in which what some operator's nodes read is changed first."""

    name: ClassVar[str] = "onnxruntime"  # which artifacts are loaded with, and reproducers run

    def __init__(self, operator: str, change: Callable[[Builder, Node], None]) -> None:
        self._operator, self._change, self._inner = operator, change, find_backend("onnxruntime")

    def available(self) -> None:
        return None

    def compile(self, legal: Graph, source: Graph, target: Target, directory: Path) -> Sequence[Path]:
        changed = legal.clone()
        for node in list(changed.nodes):
            if node.operator == self._operator:
                self._change(Builder(changed, before=node), node)
        return self._inner.compile(changed, source, target, directory)

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        return self._inner.load(directory, inputs, outputs, threads)


def scaled(by: float) -> Callable[[Builder, Node], None]:
    def change(op: Builder, node: Node) -> None:
        value = node.operand(0)
        signs = np.resize(np.float32([1, -1, 1]), value.type.static_shape)
        op.graph.set_input(node, 0, op.Mul(value, (1 + np.float32(by) * signs).astype(np.float32)))

    return change


def classifier() -> Graph:
    """A gate, and the two largest of what it lets through, which its third and fourth numbers nearly are as well."""
    graph = Graph("classifier")
    x = graph.add_input("x", TensorType(DType.float32, (1, 6)))
    y = Builder(graph, location=Location("net.gate")).Sigmoid(x)
    op = Builder(graph, location=Location("net.head"))
    values, indices = op.TopK(op.Mul(y, np.float32(3)), np.array([3]), outputs=2)
    graph.outputs |= {"values": values, "indices": indices}
    return graph


PROBE = {"x": np.float32([[0.5, 0.5, 0.5, 0.5, 0.25, 0.125]])}


def compiled(backend: Backend, folder: Path) -> Executable:
    write_artifact(folder, classifier(), backend, load_target("native"))
    return load(folder)


def hold(backend: Backend, folder: Path, tolerance: Tolerance = FLOATS) -> None:
    check = BackendCheck(backend, load_target("native"), tolerance)
    check.hold(compiled(backend, folder / "artifact"), classifier(), [PROBE], folder)


def test_a_decision_that_rounding_turns_is_no_fault(tmp_path: Path) -> None:
    backend = Other("Sigmoid", scaled(1e-6))
    (_, turned), (_, indices) = (
        compiled(it, tmp_path / name).run(PROBE) for it, name in ((backend, "a"), (find_backend("onnxruntime"), "b"))
    )
    assert not np.array_equal(turned, indices)
    hold(backend, tmp_path)


def test_a_backend_that_rounds_otherwise_where_it_returns_what_all_nodes_yield_is_not_accused(tmp_path: Path) -> None:
    def change(op: Builder, node: Node) -> None:
        if len(op.graph.outputs) < 6:  # of four nodes' values and the graph's own two, Sigmoid's isn't returned
            scaled(1e-6)(op, node)

    hold(Other("Sigmoid", change), tmp_path)


@pytest.mark.parametrize(("operator", "layer"), [("Sigmoid", "net.gate: Sigmoid"), ("TopK", "net.head: TopK")])
def test_the_layer_at_fault_is_named(operator: str, layer: str, tmp_path: Path) -> None:
    with pytest.raises(
        CheckError, match=rf"^{layer} is off by .*; onnxruntime computes something other than the graph: "
    ):
        hold(Other(operator, scaled(0.05)), tmp_path)


def product(accuracy_level: int) -> Graph:
    """A layer whose weights have 4 bits."""
    graph = Graph("product")
    x = graph.add_input("x", TensorType(DType.float32, (3, 64)))
    weight = BlockWeight.nearest(np.random.default_rng(0).standard_normal((64, 32), np.float32), BlockScheme(4, 32))
    sizes = {"K": 64, "N": 32, "bits": 4, "block_size": 32, "accuracy_level": accuracy_level}
    graph.outputs["y"] = Builder(graph, location=Location("net.layer"))(MATMUL_NBITS, x, *weight.inputs, **sizes)
    return graph


def hold_product(graph: Graph, change: Callable[[Builder, Node], None], folder: Path) -> None:
    backend, target = Other(MATMUL_NBITS, change), load_target("native")
    write_artifact(folder / "artifact", graph, backend, target)
    probes = [{"x": np.random.default_rng(1).standard_normal((3, 64), np.float32)}]
    BackendCheck(backend, target).hold(load(folder / "artifact"), graph, probes, folder)


def in_8_bits(op: Builder, node: Node) -> None:
    op.graph.set_input(node, 0, op.Mul(op.Round(op.Mul(node.operand(0), 32.0)), 1 / 32))


def test_a_product_that_lets_its_backend_round_activations_is_not_accused(tmp_path: Path) -> None:
    hold_product(product(accuracy_level=4), in_8_bits, tmp_path)
    with pytest.raises(CheckError, match="^net.layer: com.microsoft::MatMulNBits is off by"):
        hold_product(product(accuracy_level=4), scaled(0.05), tmp_path / "other")
    with pytest.raises(CheckError, match="^net.layer: com.microsoft::MatMulNBits is off by"):
        hold_product(product(accuracy_level=1), in_8_bits, tmp_path / "exact")


@pytest.mark.parametrize(("by", "tolerance"), [(0.05, FLOATS), (1e-4, Tolerance(1e-6, 1e-6))], ids=["usual", "strict"])
def test_what_fails_leaves_a_reproducer_that_fails_again(
    by: float, tolerance: Tolerance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Other("TopK", scaled(by))
    with pytest.raises(CheckError, match="planish opt") as raised:
        hold(backend, tmp_path, tolerance)
    (folder,) = set(re.findall(r"\S+planish-reproducer-\S+", str(raised.value)))
    np.testing.assert_array_equal(read_reproducer(Path(folder)).probes[0]["x"], PROBE["x"])
    assert optimize_file(folder, None, None).records == ()  # with ONNX Runtime as it is, all is well
    monkeypatch.setattr(backend_check, "find_backend", lambda _: backend)
    for run in (lambda: optimize_file(folder, None, None), lambda: find_fault(folder, None, None, "native")):
        with pytest.raises(CheckError, match="net.head: TopK is off by"):
            run()
    small = shrink(folder, tmp_path / "small")
    assert [node.operator for node in small.graph.nodes] == ["TopK"]
    assert small.machine == load_target("native")  # which its folder holds as well


def test_a_reproducer_that_does_not_fail_again_says_so(tmp_path: Path) -> None:
    """An executable that was tampered with can't be made again from the graph."""
    right, backend = find_backend("onnxruntime"), Other("Sigmoid", scaled(0.05))
    check = BackendCheck(right, load_target("native"))
    with pytest.raises(CheckError, match="doesn't fail again: it depends on something else"):
        check.hold(compiled(backend, tmp_path / "artifact"), classifier(), [PROBE], tmp_path)


def test_a_sigmoid_that_is_nowhere_more_than_a_millionth_is_held_to_its_scale(tmp_path: Path) -> None:
    """A detector sees nothing on a blank page; ONNX Runtime gives 1e-8 there, whatever less it is."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (8,)))
    graph.outputs["y"] = Builder(graph).Sigmoid(x)
    write_artifact(tmp_path / "artifact", graph, find_backend("onnxruntime"), load_target("native"))
    check = BackendCheck(find_backend("onnxruntime"), load_target("native"))
    check.hold(load(tmp_path / "artifact"), graph, [{"x": np.full(8, -30, np.float32)}], tmp_path)
