"""What ONNX Runtime runs as it is, and what has to be spelled out for it."""

from ...ir.graph import Node
from .casts import is_miscast
from .support import Support


def _is_unsaturated(node: Node) -> bool:
    return node.output.dtype.is_float and not node.attributes.get("saturate", 1)


ONNXRUNTIME = Support(
    expanded={
        "Cast": is_miscast,
        "CastLike": lambda node: True,
        "QuantizeLinear": _is_unsaturated,
    },
    domains=frozenset({"ai.onnx.ml", "ai.onnx.preview", "com.microsoft"}),
)
