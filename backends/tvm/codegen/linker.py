"""Linkers that make a shared library of object files, for the machine at hand or for another one that runs Linux."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from tvm.support.cc import create_shared, get_cc
from tvm.target import codegen

from ....ir.errors import TargetError
from ....targets.cpu import architecture
from ..llvm import triple


def find_linker(wanted: str) -> Callable[..., None]:
    """Return a linker for libraries of an architecture, to be called by TVM.

    Raises:
        TargetError: there is nothing that does; it says what to install.
    """
    if wanted == architecture():
        if get_cc() is None:
            raise TargetError("TVM needs a C compiler to link with: install gcc or clang, or name one in CXX")
        return _HostLinker()
    for name in (f"{triple(wanted)}-g++", f"{triple(wanted)}-gcc", "ld.lld"):
        if path := shutil.which(name):
            return _Linker(wanted, (path,))
    if find_spec("ziglang"):
        return _Linker(wanted, (sys.executable, "-m", "ziglang", "ld.lld"))
    raise TargetError(
        f"TVM needs a linker for {wanted}: pip install ziglang, or install lld, or gcc for it ({triple(wanted)}-gcc)"
    )


class _HostLinker:
    """The system's C compiler."""

    def __call__(self, library: str, objects: Sequence[str], **_: object) -> None:
        """Link a library, like TVM's `create_shared`."""
        try:
            create_shared(library, objects)
        except RuntimeError as error:
            raise RuntimeError(f"{get_cc()} can't link: {error}") from error

    def get_target_triple(self) -> str:
        """Return the system's triple; TVM would ask the C compiler, which takes a while and may be broken."""
        return codegen.llvm_get_system_triple()


@dataclass(frozen=True, slots=True)
class _Linker:
    """A command that links for another architecture.

    The library's undefined symbols are those of system libraries, which the process that loads it has.
    """

    architecture: str
    command: Sequence[str]

    def __call__(self, library: str, objects: Sequence[str], **_: object) -> None:
        """Link a library, like TVM's `create_shared`."""
        command = [*self.command, "-shared", "-o", library, *objects]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.command[0]} can't link for {self.architecture}: {done.stderr or done.stdout}")

    def get_target_triple(self) -> str:
        """Return the architecture's triple; with it, TVM needs no compiler for its tables."""
        return triple(self.architecture)
