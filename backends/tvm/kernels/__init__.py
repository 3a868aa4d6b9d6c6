"""Kernels in TIR, generated for a shape and a machine from templates; converters call them through `Lowering.prim_func`."""
