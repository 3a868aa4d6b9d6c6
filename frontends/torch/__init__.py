"""PyTorch models: `torch.export` gives an fx graph of ATen operators, a table turns each of those into ONNX operators."""

from .trace import read_pt2, trace

__all__ = ["read_pt2", "trace"]
