"""Weights that are zero, single ones and blocks."""
