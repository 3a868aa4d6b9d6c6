"""Transformations of a graph, one file each, and what runs and checks them."""
