"""The lowering of a graph to Relax: the walk, what nodes are computed together, and in which layout."""
