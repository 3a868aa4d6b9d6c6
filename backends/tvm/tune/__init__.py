"""Kernels measured in all the ways in which they can be generated."""
