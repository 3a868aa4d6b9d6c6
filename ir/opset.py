"""The version of ONNX's operator set that the whole project speaks; models of other versions are converted on import."""

OPSET = 28

LOWEST_OPSET = 21
"""Graphs are written in the lowest opset from this one on that expresses them, so that the most runtimes read them."""

MODULE_KEY = "planish.module"
SOURCE_KEY = "planish.source"
"""Under these keys a node's metadata in an ONNX file holds its location."""
