"""The graph and what can be asked of it; imports nothing else of the project."""
