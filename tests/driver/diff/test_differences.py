"""Two models are aligned node by node, and what differs is told of the nodes that it differs in."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import planish
from planish.driver.cli import app
from planish.driver.diff.alignment import align
from planish.driver.diff.differences import differences
from planish.driver.diff.page import diff_page
from planish.ir.graph import Graph
from planish.ir.text import parse_graph

A = """
graph "net"(%x: float32[batch, 4]) {
  const %w: float32[4, 3] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
  const %b: float32[3] = [1, 1, 1]
  %m: float32[batch, 3] = MatMul(%x, %w) @ "first" "net.py:1"
  %a: float32[batch, 3] = Add(%m, %b) @ "first" "net.py:1"
  %r: float32[batch, 3] = LeakyRelu(%a) {alpha = 0.5} @ "" "net.py:2"
  %s: float32[batch, 3] = Softmax(%r) {axis = 1}
  return y = %s
}
"""
NAMES = ("a", "b")


def graph(text: str = A) -> Graph:
    return parse_graph(text, {})


def aligned(a: Graph, b: Graph) -> dict[str, str]:
    return {theirs.outputs[0].name: ours.outputs[0].name for theirs, ours in align(a, b).items()}


def test_equal_models_have_no_differences() -> None:
    found = differences(graph(), graph(), NAMES)
    assert (found.same, found.nodes, found.only_a, found.only_b, found.weights) == (4, [], [], [], [])
    assert [output.largest for output in found.outputs] == [0.0]
    assert found.graphs["steps"][1]["made"] == []


def test_names_that_say_nothing_are_aligned_by_what_nodes_read() -> None:
    other = A.replace('@ "first" "net.py:1"', "").replace('@ "" "net.py:2"', "")
    for letter in "mars":
        other = other.replace(f"%{letter}:", f"%n{letter}:").replace(f"%{letter}", f"%n{letter}")
        other = other.replace(f"%nn{letter}", f"%n{letter}")
    assert aligned(graph(), graph(other)) == {"nm": "m", "na": "a", "nr": "r", "ns": "s"}
    assert differences(graph(), graph(other), NAMES).same == 4


def test_a_node_in_between_is_alone_and_the_rest_is_aligned() -> None:
    between = A.replace("Softmax(%r)", "Softmax(%t)").replace("  %s:", "  %t: float32[batch, 3] = Tanh(%r)\n  %s:")
    found = differences(graph(), graph(between), NAMES)
    assert found.only_b == ["Tanh t at an unnamed place"]
    assert [(it.name, list(it.what)) for it in found.nodes] == [("s", ["reads %t as input 0, was %r"])]
    assert found.outputs[0].largest > 0


def test_attributes_types_and_weights_are_told() -> None:
    other = A.replace("alpha = 0.5", "alpha = 0.25").replace("[1, 2, 3, 4, 5", "[1, 2, 3, 4, 7")
    found = differences(graph(), graph(other), NAMES)
    assert [(it.operator, list(it.what)) for it in found.nodes] == [("LeakyRelu", ["alpha = 0.25, was 0.5"])]
    (weight,) = found.weights
    assert (weight.name, weight.module, weight.largest) == ("w", "first", 2.0)
    assert weight.means == pytest.approx((51 / 12, 53 / 12))


def test_integers_count_as_what_they_stand_for() -> None:
    data = [np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)]
    fused = planish.optimize(graph(), "fuse").graph
    built = planish.optimize(fused, "quantize", data=data).graph
    found = differences(fused, built, NAMES, [{"x": data[0]}])
    weight = next(it for it in found.weights if it.types == ("float32[4, 3]", "int8[4, 3]"))
    assert weight.largest is not None
    assert 0 < weight.largest <= 9 / 127
    assert found.outputs[0].cosine > 0.99


def test_a_factor_that_was_turned_is_turned_back() -> None:
    turned = """
    graph "net"(%x: float32[2, 4]) {
      const %w: float32[3, 4] = [1, 4, 7, 1, 2, 5, 8, 2, 3, 6, 9, 4]
      %m: float32[2, 3] = Gemm(%x, %w) {transB = 1} @ "first"
      return y = %m
    }"""
    straight = """
    graph "net"(%x: float32[2, 4]) {
      const %w: float32[4, 3] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]
      %m: float32[2, 3] = MatMul(%x, %w) @ "first"
      return y = %m
    }"""
    found = differences(graph(straight), graph(turned), NAMES)
    assert [it.operator for it in found.nodes] == ["MatMul -> Gemm"]
    assert [it.largest for it in found.weights] == [1.0]
    assert found.outputs[0].largest > 0


def test_models_with_other_inputs_are_compared_without_their_outputs() -> None:
    two = A.replace("(%x: float32[batch, 4])", "(%x: float32[batch, 4], %z: float32[batch, 3])")
    found = differences(graph(), graph(two), NAMES)
    assert found.outputs == ()
    assert "another number of inputs" in found.unknown


def test_the_command_tells_and_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planish.write(graph(), "a.planish")
    planish.write(graph(A.replace("alpha = 0.5", "alpha = 0.25")), "b.planish")
    done = CliRunner().invoke(app, ["diff", "a.planish", "b.planish", "--html", "diff.html"])
    assert done.exit_code == 0, done.output
    assert "alpha = 0.25, was 0.5" in done.stderr
    page = (tmp_path / "diff.html").read_text()
    assert "3 nodes are the same, 1 differ, 0 are in A alone and 0 in B alone; 0 weights differ." in page
    told = json.loads(CliRunner().invoke(app, ["diff", "a.planish", "b.planish", "--json"]).stdout)
    assert [it["what"] for it in told["nodes"]] == [["alpha = 0.25, was 0.5"]]


def test_strangers_names_are_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    page = diff_page(differences(graph(), graph(), (hostile, hostile)))
    assert "<img" not in page
    assert page.count("<script") == 2


def test_of_compiled_code_the_command_is_told_that_makes_its_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tvm")
    monkeypatch.chdir(tmp_path)
    planish.write(graph(), "a.planish")
    built = CliRunner().invoke(app, ["build", "a.planish", "-b", "tvm", "-p", "cleanup,fuse-bias{required=false}"])
    assert built.exit_code == 0, built.output
    refused = CliRunner().invoke(app, ["diff", "a.planish", "dist"])
    assert refused.exit_code == 2
    command = shlex.split(refused.stderr.split("`")[1])
    assert command[:3] == ["planish", "opt", "a.planish"]
    done = CliRunner().invoke(app, command[1:])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["diff", "a.planish", "compiled.onnx"]).exit_code == 0
