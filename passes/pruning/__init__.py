"""Whole channels are removed."""
