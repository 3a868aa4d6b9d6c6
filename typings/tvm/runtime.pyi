"""What runs, and what it runs on."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tvm_ffi import Module
from tvm_ffi import Tensor as Tensor

class Executable:
    def __getitem__(self, name: str) -> Callable[..., object]: ...
    def export_library(self, file_name: str | Path, *, fcompile: Callable[..., None], workspace_dir: str) -> None: ...

def tensor(arr: np.ndarray) -> Tensor: ...
def load_static_library(path: str, function_names: Sequence[str]) -> Module: ...
