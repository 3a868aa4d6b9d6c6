"""The graph as networkx sees it."""

import networkx as nx

from ..graph import Graph, Node


def dataflow(graph: Graph) -> "nx.MultiDiGraph[Node]":
    """The nodes, with an edge from producer to reader for each use: `value` flows into input `index` of the reader."""
    flow: nx.MultiDiGraph[Node] = nx.MultiDiGraph()
    flow.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        for output in node.outputs:
            flow.add_edges_from((node, use.node, {"value": output, "index": use.index}) for use in output.uses)
    return flow
