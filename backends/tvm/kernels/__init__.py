"""Kernels in TIR, generated from templates for a shape and a machine; `Lowering.prim_func` calls them."""
