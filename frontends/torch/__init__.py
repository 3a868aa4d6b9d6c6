"""PyTorch models: `torch.export` gives an fx graph of ATen operators, and a table lowers each of them to ONNX's."""

from .trace import read_pt2, trace

__all__ = ["read_pt2", "trace"]
