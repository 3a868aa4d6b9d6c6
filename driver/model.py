"""Models as users name them: a file, or a factory of a module and its example inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from ..ir.errors import ModelError, UsageError
from ..ir.finite import check_finite
from ..ir.graph import Graph
from ..ir.suggestion import did_you_mean
from .user_code import find_function, make, parse_options

LIBRARIES = ("hf", "timm", "torchvision")
"""What stands before the name of a model that a library builds; see `frontends/torch/zoo.py`."""


def read_model(reference: str, folder: Path = Path()) -> Graph:
    """Read a `.onnx`, `.pt2` or `.planish` file as a graph, or what a factory or a library makes.

    A file may be followed by sizes for symbolic dimensions of its inputs, and by values for inputs of one number:
    `model.onnx{batch=1,height=48,sample_rate=16000}`.

    A factory, `file.py:factory` or `package.module:factory`, with its options if it takes any, as in
    `model.py:build{width=16}`, returns (module, example inputs), (module, example inputs,
    dynamic shapes), as `planish.trace` takes them, or the path of such a file.

    Args:
        reference: what the user wrote.
        folder: the folder that files are relative to.

    Raises:
        UsageError: there is no such file, module or factory, or the file's model has no such dimension or input.
        ModelError: the model is broken, holds NaN, can't be traced, or can't have these sizes.
    """
    graph = _read(reference, folder)
    try:
        check_finite(graph)
    except ModelError as error:
        raise ModelError(f"{reference}: {error}") from error
    return graph


def write_model(graph: Graph, path: Path) -> None:
    """Write a graph as a `.onnx` or `.planish` file, whole or not at all.

    Raises:
        UsageError: the name ends otherwise.
        TargetError: ONNX can't express an operator.
    """
    check_form(path)
    _WRITERS[path.suffix](graph, path)


def check_form(path: Path) -> None:
    """Hold the name of a file to the forms that a graph can be written in.

    Raises:
        UsageError: it ends otherwise.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"{path} must end in {' or '.join(_WRITERS)}")


def find_model(reference: str, folder: Path) -> None:
    """Look whether there is a file, a factory or a library's name of a model, without reading it.

    Raises:
        UsageError: there is none.
        ModelError: the factory's module fails while it is imported.
    """
    path = folder / _parts(reference)[0]
    if path.suffix in _READERS:
        if not path.exists():
            neighbours = [file.name for file in path.parent.glob(f"*{path.suffix}")]
            raise UsageError(f"there is no model {path}{did_you_mean(path.name, neighbours)}")
    elif ":" not in reference:
        raise UsageError(
            f"{reference!r} is not a model: give a .onnx, .pt2 or .planish file, file.py:factory, "
            "package.module:factory, torchvision:NAME, timm:NAME or hf:FOLDER"
        )
    elif reference.partition(":")[0] not in LIBRARIES:
        find_function(reference, folder)


def _read(reference: str, folder: Path) -> Graph:
    name, values = _parts(reference)
    path = folder / name
    reader = _READERS.get(path.suffix)
    if reader is None and ":" in reference:
        return _trace(reference, folder)
    find_model(reference, folder)
    assert reader is not None  # or it is refused
    graph = reader(path)
    if values:
        from ..ir.fixed_inputs import fix_inputs  # brings torch

        fix_inputs(graph, values)
    return graph


def _parts(reference: str) -> tuple[str, dict[str, Any]]:
    """A file's name, and the values behind it; all other references as they are."""
    is_file = Path(reference.partition("{")[0]).suffix in _READERS
    return parse_options(reference) if is_file else (reference, {})


def _trace(reference: str, folder: Path) -> Graph:
    made: Any = _made(reference, folder)
    if isinstance(made, Path):
        return _read(str(made), folder)
    parts: tuple[Any, ...] = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made,)
    if len(parts) not in (2, 3) or not hasattr(parts[0], "forward"):
        raise ModelError(
            f"{reference} must return (module, example inputs), (module, example inputs, dynamic shapes) or a path, "
            f"not ({', '.join(type(part).__name__ for part in parts)})"
        )
    from ..frontends.torch import trace

    module, inputs, *dynamic_shapes = parts
    return trace(module, inputs, dynamic_shapes=dynamic_shapes[0] if dynamic_shapes else None)


def _made(reference: str, folder: Path) -> Any:
    library, _, name = reference.partition(":")
    if library not in LIBRARIES:
        return make(reference, folder)
    from ..frontends.torch.zoo import from_library

    name, options = parse_options(name)
    return from_library(library, name, options, folder)


def _read_onnx(path: Path) -> Graph:
    from ..frontends.onnx import read_onnx

    return read_onnx(path)


def _read_pt2(path: Path) -> Graph:
    from ..frontends.torch import read_pt2

    return read_pt2(path)


def _read_planish(path: Path) -> Graph:
    from ..ir.storage import load

    return load(path)


def _write_onnx(graph: Graph, path: Path) -> None:
    from ..backends.onnx_file import write_onnx

    write_onnx(graph, path)


def _write_planish(graph: Graph, path: Path) -> None:
    from ..ir.storage import save

    save(graph, path)


_READERS: dict[str, Callable[[Path], Graph]] = {".onnx": _read_onnx, ".pt2": _read_pt2, ".planish": _read_planish}
_WRITERS: dict[str, Callable[[Graph, Path], None]] = {".onnx": _write_onnx, ".planish": _write_planish}
