"""Graphs as Model Explorer reads them."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from planish.driver.cli import app
from planish.driver.model_explorer import graph_collection
from planish.ir.text import parse_graph

GRAPH = """
graph "net"(%x: float32[n, 2]) {
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  %y: float32[n, 2] = MatMul(%x, %w) @ "encoder.layer.0" "net.py:12"
  %a: float32[n, 1], %b: float32[n, 1] = Split(%y) {axis = 1, num_outputs = 2} @ "/encoder/Split_1"
  %sum: float32[n, 1] = Add(%b, %a)
  return total = %sum
}
"""
COLLECTION = """
input x [] <- -> x float32[n, 2]
MatMul y [encoder/layer/0] input 1=w: float32[2, 2], source=net.py:12, FLOPs=24 <- 0 x.0 -> y float32[n, 2]
Split a [encoder/Split_1] axis=1, num_outputs=2, FLOPs=0 <- 0 y.0 -> a float32[n, 1]; b float32[n, 1]
Add sum [] FLOPs=3 <- 0 a.1, 1 a.0 -> sum float32[n, 1]
output output:total [] <- 0 sum.0 -> sum float32[n, 1]
"""
NESTED = """
graph "main"(%c: bool[], %x: float32[2]) {
  const %one: float32[2] = [1.0, 1.0]
  const %k: int64[] = 3
  %low: float32[1], %high: float32[1] = Split(%x) {axis = 0, num_outputs = 2}
  %y: float32[1] = If(%c) {else_branch = graph "no"() {
    %last: float32[1] = Loop(%k, none, %high) {body = graph "step"(%i: int64[], %go: bool[], %s: float32[1]) {
      %more: bool[] = Identity(%go)
      %next: float32[1] = Add(%s, %low)
      return more = %more, next = %next
    }}
    return no = %last
  }, then_branch = graph "yes"() {
    %t: float32[1] = Neg(%high)
    return yes = %t
  }}
  %z: float32[2] = Add(%y, %one)
  return z = %z
}
"""


def spelled(graph: dict[str, Any]) -> str:
    """A graph of Model Explorer's, a line a node."""

    def pairs(attributes: list[dict[str, str]]) -> dict[str, str]:
        return {it["key"]: it["value"] for it in attributes}

    def line(node: dict[str, Any]) -> str:
        attributes = ", ".join(f"{key}={value}" for key, value in pairs(node.get("attrs", [])).items())
        edges = ", ".join(
            f"{it['targetNodeInputId']} {it['sourceNodeId']}.{it['sourceNodeOutputId']}"
            for it in node.get("incomingEdges", [])
        )
        outputs = "; ".join(" ".join(pairs(it["attrs"]).values()) for it in node["outputsMetadata"])
        parts = (node["label"], node["id"], f"[{node['namespace']}]", attributes, "<-", edges, "->", outputs)
        return " ".join(filter(None, parts))

    return "\n".join(map(line, graph["nodes"]))


def test_nodes_edges_and_modules_are_those_of_the_graph() -> None:
    collection = graph_collection(parse_graph(GRAPH), {"n": 3})
    (graph,) = collection["graphs"]
    assert (collection["label"], graph["id"]) == ("net", "net")
    assert spelled(graph) == COLLECTION.strip()
    split = graph["nodes"][2]
    assert [it["id"] for it in split["outputsMetadata"]] == ["0", "1"]
    assert {value for pair in split["attrs"] for value in map(type, pair.values())} == {str}


def test_graphs_inside_nodes_are_graphs_that_their_nodes_lead_to() -> None:
    collection = graph_collection(parse_graph(NESTED), None)
    graphs = {graph["id"]: graph for graph in collection["graphs"]}
    assert list(graphs) == ["main", "y.else_branch", "last.body", "y.then_branch"]
    led = {node["id"]: node["subgraphIds"] for it in graphs.values() for node in it["nodes"] if node.get("subgraphIds")}
    assert led == {"y": ["y.else_branch", "y.then_branch"], "last": ["last.body"]}
    assert {name: spelled(graph).splitlines() for name, graph in graphs.items() if name != "main"} == {
        "y.else_branch": [
            "input high [] <- -> high float32[1]",
            "input low [] <- -> low float32[1]",
            "Loop last [] input 0=k: int64[], FLOPs=1 <- 2 high.0, 3 low.0 -> last float32[1]",
            "output output:no [] <- 0 last.0 -> last float32[1]",
        ],
        "last.body": [
            "input i [] <- -> i int64[]",
            "input go [] <- -> go bool[]",
            "input s [] <- -> s float32[1]",
            "input low [] <- -> low float32[1]",
            "Identity more [] FLOPs=0 <- 0 go.0 -> more bool[]",
            "Add next [] FLOPs=1 <- 0 s.0, 1 low.0 -> next float32[1]",
            "output output:more [] <- 0 more.0 -> more bool[]",
            "output output:next [] <- 0 next.0 -> next float32[1]",
        ],
        "y.then_branch": [
            "input high [] <- -> high float32[1]",
            "Neg t [] FLOPs=1 <- 0 high.0 -> t float32[1]",
            "output output:yes [] <- 0 t.0 -> t float32[1]",
        ],
    }
    check(collection)


def check(collection: dict[str, Any]) -> None:
    """Ids are unique, and edges and graphs that nodes name are there."""
    names = [graph["id"] for graph in collection["graphs"]]
    assert len(set(names)) == len(names)
    for graph in collection["graphs"]:
        outputs = {node["id"]: len(node["outputsMetadata"]) for node in graph["nodes"]}
        assert len(outputs) == len(graph["nodes"])
        for node in graph["nodes"]:
            assert set(node.get("subgraphIds", [])) <= set(names)
            for edge in node.get("incomingEdges", []):
                assert int(edge["sourceNodeOutputId"]) < outputs[edge["sourceNodeId"]]


def test_inspect_writes_it(folder: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", "net.planish", "--model-explorer", "graphs/net.json"])
    assert done.exit_code == 0, done.output
    collection = json.loads((folder / "graphs" / "net.json").read_text())
    check(collection)
    nodes = {node["id"]: node for node in collection["graphs"][0]["nodes"]}
    assert {node["namespace"] for node in nodes.values()} == {"", "first", "second"}
    assert "input features [] <- -> features float32[batch, 8]" in spelled(collection["graphs"][0])
    refused = CliRunner().invoke(app, ["inspect", "net.planish", "--model-explorer", "graphs"])
    assert (refused.exit_code, "graphs can't be written" in refused.output) == (2, True)
