"""The types that products may be computed in where a graph is learned from rather than judged."""

from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["float32", "bfloat16"]


def fast_precision() -> Precision:
    """The type that this machine multiplies fastest in."""
    import torch

    can = torch.cpu.get_capabilities()
    return "bfloat16" if can.get("avx512_bf16") or can.get("amx_bf16") else "float32"
