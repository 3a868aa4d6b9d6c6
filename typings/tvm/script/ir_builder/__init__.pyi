"""The builder of TIR, whose frames are context managers."""

from typing import Any, Self

from ...tirx.script import builder as tirx

__all__ = ["IRBuilder", "tirx"]

class IRBuilder:
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def get(self) -> Any: ...  # what the outermost frame has made: a function, or a statement without one
