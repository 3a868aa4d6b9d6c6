"""Kernels in TIR, generated from templates for a shape and a machine; `Emitter.prim_func` calls them."""
