"""Kernels for machines that aren't at hand: what CPUs there are, graphs that ask for every kernel, and a look at the machine code."""
