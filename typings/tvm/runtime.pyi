"""What runs, and what it runs on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import tvm_ffi
from tvm_ffi import Module as Module

class Tensor(tvm_ffi.Tensor):
    def _create_view(self, shape: Sequence[int], dtype: str | None = None) -> Tensor: ...

class Executable:
    def __getitem__(self, name: str) -> Callable[..., object]: ...
    def export_library(self, file_name: str | Path, *, fcompile: Callable[..., None], workspace_dir: str) -> None: ...

def load_static_library(path: str, func_names: Sequence[str]) -> Module: ...
