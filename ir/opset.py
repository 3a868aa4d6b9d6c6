"""The version of ONNX's operator set that planish speaks; models of other versions are converted on import."""

OPSET = 28

LOWEST_OPSET = 21
"""Graphs are written in the lowest opset from this one on that expresses them, so that the most runtimes read them."""

LAST_OF_OLD_KERNELS = 21
"""The opset for operators that the next one only extends to more element types: runtimes still have the old kernels."""

OLD_KERNELS = frozenset(
    {"MaxRoiPool", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "RoiAlign"}
)

MODULE_KEY = "planish.module"
SOURCE_KEY = "planish.source"
"""Under these keys a node's metadata in an ONNX file holds its location."""
