"""Questions about a graph: data flow, liveness, coupled channels, cost."""
