"""The importer of ONNX, whose converters are classes by operator."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from ....ir import Expr
from ... import BlockBuilder

class onnx_input(list[Expr | int | None]):
    def __init__(self, items: Iterable[Expr | int | None] = ...) -> None: ...

class OnnxOpConverter:
    @classmethod
    def get_converter(
        cls, opset: int
    ) -> Callable[[BlockBuilder, onnx_input, Mapping[str, object], Sequence[Mapping[str, Expr]]], Expr]: ...

def _get_convert_map() -> Mapping[str, type[OnnxOpConverter]]: ...
