# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none
"""What makes a shared library of object files, for the machine at hand or for another one that runs Linux."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tvm.support.cc import create_shared, get_cc

from ...ir.errors import TargetError
from ...targets.cpu import architecture
from .llvm import triple


def find_linker(wanted: str) -> Callable[..., None]:
    """What links libraries of an architecture, as TVM calls it.

    Raises:
        TargetError: there is nothing that does; it says what to install.
    """
    if wanted == architecture():
        if get_cc() is None:
            raise TargetError("TVM needs a C compiler to link with: install gcc or clang, or name one in CXX")
        return create_shared
    for name in (f"{triple(wanted)}-g++", f"{triple(wanted)}-gcc", "ld.lld"):
        if path := shutil.which(name):
            return _Linker(wanted, (path,))
    if find_spec("ziglang"):
        return _Linker(wanted, (sys.executable, "-m", "ziglang", "ld.lld"))
    raise TargetError(
        f"TVM needs a linker for {wanted}: pip install ziglang, or install lld, or gcc for it ({triple(wanted)}-gcc)"
    )


@dataclass(frozen=True, slots=True)
class _Linker:
    """A command that links for another architecture. What libraries ask the system for, the process that loads them has."""

    architecture: str
    command: Sequence[str]

    def __call__(self, library: str, objects: Sequence[str], **_: Any) -> None:
        """As TVM's `create_shared`."""
        command = [*self.command, "-shared", "-o", library, *objects]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.command[0]} can't link for {self.architecture}: {done.stderr or done.stdout}")

    def get_target_triple(self) -> str:
        """Asked for by TVM, which then needs no compiler for its tables."""
        return triple(self.architecture)
