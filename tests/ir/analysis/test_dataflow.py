"""The data flow as networkx sees it."""

import networkx as nx

from planish.ir.analysis.dataflow import dataflow
from planish.ir.text import parse_graph


def test_edges_are_uses() -> None:
    graph = parse_graph("""graph "g"(%x: float32[2]) {
      %a: float32[2] = Relu(%x)
      %b: float32[1], %c: float32[1] = Split(%a) {num_outputs = 2}
      %d: float32[1] = Sub(%c, %b)
      %e: float32[2] = Add(%a, %a)
      return d = %d, e = %e
    }""")
    relu, split, sub, add = graph.nodes
    flow = dataflow(graph)
    assert list(flow) == [relu, split, sub, add]
    edges = [(one, other, edge["value"].name, edge["index"]) for one, other, edge in flow.edges(data=True)]
    assert sorted(edges, key=lambda edge: (edge[2], edge[3])) == [
        (relu, split, "a", 0),
        (relu, add, "a", 0),
        (relu, add, "a", 1),
        (split, sub, "b", 1),
        (split, sub, "c", 0),
    ]
    assert nx.descendants(flow, split) == {sub}
