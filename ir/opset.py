"""The version of ONNX's operator set that the whole project speaks; models of other versions are converted on import."""

OPSET = 24

MODULE_KEY = "planish.module"
SOURCE_KEY = "planish.source"
"""Under these keys a node's metadata in an ONNX file holds its location."""
