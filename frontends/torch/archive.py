"""Reads `torch.export` archives (`.pt2`) without running what is in them.

torch itself unpickles some of an archive's records, loads compiled libraries from it, and hands its shape expressions
to `eval`. Whatever would get there is refused first, as torch's own reader sees it.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2  # torch.export.load falls back to a form that is all pickles

from ...ir.errors import ModelError
from ...ir.files import open_regular

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/.*|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
)
_SYNTAX = (
    *(ast.Expression, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword, ast.Name, ast.Constant),
    *(ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.expr_context),
)


def load_program(path: Path) -> ExportedProgram:
    """The program in an archive.

    Raises:
        ModelError: the file is missing or broken, or holds what would be run to read it.
    """
    try:
        _check_sizes(path)
        with PT2ArchiveReader(str(path)) as reader:
            reason = next(_dangers(reader), None)
        if reason is None:
            return load_pt2(str(path)).exported_programs["model"]
    except Exception as error:  # a broken archive raises from zip, json, or torch alike
        raise ModelError(f"{path} is not a torch.export archive that can be read: {error}") from error
    raise ModelError(
        f"{path} is refused: {reason}, which would be run to read it; export the model again, or give it as ONNX"
    )


def _check_sizes(path: Path) -> None:
    """Hold records to what torch writes, so that reading them takes no more memory than the file is large.

    Raises:
        RefusedFileError: it is no regular file.
        ValueError: records are packed, or share their bytes.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its records are compressed, which torch doesn't do")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its records are larger than the file")
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise ValueError("it has two records of one name")


def _dangers(reader: PT2ArchiveReader) -> Iterator[str]:
    """What reading would run."""
    names = reader.get_file_names()
    yield from (f"it holds {name}" for name in names if not _RECORDS.fullmatch(name))
    for name in (name for name in names if name.endswith("_config.json")):
        entries = json.loads(reader.read_string(name))["config"].items()
        yield from (f"{key} is pickled" for key, entry in entries if entry["use_pickle"] or not _is_tensor(entry))
    yield from (
        f"it has the size {text!r}" for text in _expressions(json.loads(reader.read_string("models/model.json")))
    )
    try:
        torch.load(io.BytesIO(reader.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    except Exception:  # whatever the restricted unpickler says: torch would go on without the restrictions
        yield "its sample inputs are more than tensors"


def _is_tensor(entry: dict[str, Any]) -> bool:
    return bool(re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]))


def _expressions(value: Any) -> Iterator[str]:
    """The shape expressions in a model's JSON that are more than arithmetic."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _expressions(item)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if key != "expr_str":
                yield from _expressions(item)
            elif not _is_arithmetic(item):
                yield item


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression has only numbers, symbols and sympy's functions, capitalized as no built-in function is."""
    tree = ast.parse(re.sub(r"\bSymbol\('\w+'", "Symbol(0", expression), mode="eval")
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return all(
        isinstance(node, _SYNTAX) and not (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
        for node in ast.walk(tree)
    ) and all(isinstance(function, ast.Name) and function.id[0].isupper() for function in calls)
