"""The only place that reads users' models: each gives a graph."""
