"""ONNX Runtime: takes the graph as ONNX, one node to one node."""

from .backend import OnnxRuntime

BACKEND = OnnxRuntime()
