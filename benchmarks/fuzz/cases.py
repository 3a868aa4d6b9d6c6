"""One mutated file, given to whatever reads its format: it is taken, or refused with a message that names it."""

import os
import resource
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from planish.backends.base import Port
from planish.backends.tvm.tune.database import read_database
from planish.driver.data import read_data
from planish.driver.model import read_model
from planish.driver.recipe_file import read_recipe
from planish.ir.errors import PlanishError, TargetError
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.passes.reproducer import read_reproducer
from planish.targets.load import load_target

from . import mutations

MOST_BYTES = 2 << 30
"""Bytes of memory that reading may take beyond the size of the file."""

Outcome = tuple[str, str]
GOOD = ("equal", "refused")


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        file: the name of a case's file.
        mutate: makes a case.
        read: reads a case.
    """

    file: str
    mutate: mutations.Mutation
    read: Callable[[Path], Any]


def _model(path: Path) -> None:
    graph = read_model(path.name, path.parent)
    verify(graph)
    parse_graph(print_graph(graph), weights(graph))
    try:
        steps = parse_pipeline("cleanup,fuse")
        PassManager(steps, verify="structure").run(graph, PassContext(load_target("x86-64"), graph.clone()))
    except TargetError:
        pass


def _data(path: Path) -> None:
    read_data(path.name, path.parent, [Port("x", "float32", ("batch", 4))])


def _recipe(path: Path) -> None:
    read_recipe(path).pipeline()


def _reproducer(path: Path) -> None:
    case = read_reproducer(path.parent)
    parse_pipeline(case.pipeline)
    load_target(case.target)


FORMATS: Mapping[str, Format] = {
    "onnx": Format("model.onnx", mutations.mutate_onnx, _model),
    "pt2": Format("model.pt2", mutations.mutate_archive, _model),
    "planish": Format("model.planish", mutations.mutate_planish, _model),
    "npz": Format("data.npz", mutations.mutate_npz, _data),
    "yaml": Format("recipe.yaml", mutations.mutate_text, _recipe),
    "toml": Format("target.toml", mutations.mutate_text, load_target),
    "json": Format("tuning.json", mutations.mutate_json, read_database),
    "reproducer": Format("reproducer.json", mutations.mutate_json, _reproducer),
}


def make_case(name: str, seeds: Path, folder: Path) -> Path:
    """Write the case of a name such as `onnx:7`, with what lies beside it; returns its path."""
    kind = name.partition(":")[0]
    form, random = FORMATS[kind], Random(name)
    chosen = random.choice(sorted((seeds / kind).iterdir()))
    path = folder / form.file
    path.write_bytes(mutations.several(form.mutate, chosen.read_bytes(), random))
    if kind == "onnx":
        (folder / "weights.bin").write_bytes(np.ones(64, np.float32).tobytes())
    if kind == "reproducer":
        for beside, seed in (("graph.planish", "planish/0"), ("calibration.npz", "npz/1"), ("probes.npz", "npz/1")):
            content, mutate = (seeds / seed).read_bytes(), FORMATS[seed.partition("/")[0]].mutate
            is_mutated = random.random() < 0.3
            (folder / beside).write_bytes(mutations.several(mutate, content, random) if is_mutated else content)
    return path


def check_case(name: str, seeds: tuple[str, ...]) -> dict[str, Outcome]:
    """Read one case; what it raises decides what class it is of."""
    _bound_memory()
    with TemporaryDirectory(prefix="planish-soak-") as folder:
        path = make_case(name, Path(seeds[0]), Path(folder))
        before = _content(Path(folder))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        outcome = outcome_of(FORMATS[name.partition(":")[0]], path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak
        if grown > MOST_BYTES + path.stat().st_size:
            outcome = ("memory", f"it took {grown >> 20} MB")
        if _content(Path(folder)) != before:
            outcome = ("wrong", "reading it wrote something")
    return {seeds[0]: outcome}


def outcome_of(form: Format, path: Path) -> Outcome:
    """The class of what reading a file ends in, and what is said."""
    said = StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings(action="ignore"):
            form.read(path)
    except PlanishError as error:
        return _refusal(error, path, form)
    except MemoryError as error:
        return "memory", _place(error)
    except BaseException as error:
        return "wrong", _place(error)
    return "equal", ""


def _refusal(error: PlanishError, path: Path, form: Format) -> Outcome:
    message = str(error)
    if error.exit_code not in (2, 3):
        return "wrong", _place(error)
    if len(message) > 20_000 or not message.replace("\n", "").isprintable():
        return "wrong", f"a message of {len(message)} characters: {message[:200]!r}"
    if path.name not in message and str(path.parent) not in message and path.suffix not in (".yaml", ".json"):
        return "wrong", f"a message without the file: {message[:300]!r}"
    return "refused", message[:300]


def _place(error: BaseException) -> str:
    """An exception, and the last of our lines that it came through."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and "/lib/python" not in file:
            frames.append(f"{Path(file).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {frames[-1] if frames else '?'}: {str(error)[:200]}"


@cache
def _bound_memory() -> None:
    """Let no case take all the memory there is: it ends in a MemoryError, which counts as a failure."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 3 * MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _content(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*")}
