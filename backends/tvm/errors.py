"""What goes wrong in TVM and its compilers, and what to do then."""

from ...ir.errors import TargetError

ADVICE = "build for onnxruntime, which runs more operators, or write the layer in other ones"


class CompilerError(TargetError):
    """An error: TVM's passes, LLVM or the linker refused a graph that was lowered."""


def line_of(error: Exception) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__
