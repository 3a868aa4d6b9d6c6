"""Keys of what builds keep: hashes of everything that the kept results depend on."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.blocks import blocks
from ...ir.graph import Graph
from ...ir.text import print_graph, weights
from ...passes.base import Pass
from ...passes.manager import other_packages
from ...passes.order import flattened
from ...passes.pipeline import format_pass
from ..data import Batch
from ..provenance import digest
from ..results import plain
from .inputs import digest_of, files_beside, own_folders

if TYPE_CHECKING:
    from ..job import Job
    from ..recipe import Recipe

_FORMAT = 2
"""A number to be raised when what is kept changes its form."""


def key(*parts: Any) -> str:
    """The SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def surroundings() -> str:
    """A hash of the code that works: planish's own files, the versions of all packages, Python and the machine."""
    found = hashlib.sha256(f"{_FORMAT} {sys.version} {platform.platform()} {platform.node()}".encode())
    for folder in own_folders():
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".toml"):
                found.update(f"{path.relative_to(folder.parent)}".encode())
                found.update(path.read_bytes())
    installed = {path.name for entry in sys.path for path in Path(entry or ".").glob("*.dist-info")}
    found.update(json.dumps(sorted(installed)).encode())
    return found.hexdigest()


def recipe_key(recipe: "Recipe") -> str:
    """A key of what a recipe asks for, before anything that it names is read."""
    return key(
        recipe.model_dump(mode="json", exclude={"output", "budget", "bundle_runtime", "gate", "search"}),
        str(recipe.folder.absolute()),
        surroundings(),
    )


def graph_key(graph: Graph) -> str:
    """A hash of a graph with the names and locations in it, which passes go by as well."""
    found = hashlib.sha256(print_graph(graph).encode())
    for name, array in weights(graph).items():
        found.update(name.encode())
        for block in blocks(array):
            found.update(block)
    return found.hexdigest()


def job_key(job: "Job") -> str:
    """A key of what all passes and backends of a build depend on: model, data, target, seed and code.

    What passes leave in a trial holds no metric, so that of its evaluation data only the sample that passes time graphs
    on counts, which is in the first batch.
    """
    recipe = job.recipe
    tuned = "" if recipe.database is None else digest_of(recipe.database)
    labelled = (
        [Batch(*pair) for pair in zip(job.calibration, job.labels, strict=True)] if job.labels else job.calibration
    )
    evaluation = job.evaluation[:1] if job.is_trial else job.evaluation
    data = [digest(labelled), digest(evaluation), job.labelled is not None]
    asked = [recipe.backend, recipe.seed, str(recipe.verify), plain(job.target), recipe.data.metric, job.is_trial]
    code = _code(recipe.folder) if ":" in recipe.data.metric else ""
    return key(graph_key(job.source), data, asked, tuned, code, surroundings())


def step_keys(base: str, passes: Sequence[Pass], folder: Path) -> list[str]:
    """A key for the graph after each step of a pipeline.

    Args:
        base: the key of the job.
        passes: the steps.
        folder: the folder of the recipe, in which options may name files.
    """
    found: list[str] = []
    for step in passes:
        base = key(base, format_pass(step), [_foreign(it, folder) for it in flattened([step])])
        found.append(base)
    return found


def _foreign(step: Pass, folder: Path) -> list[str]:
    """Hashes of what a pass uses beside the text of its options: files that these name, and code outside of planish."""
    texts = [text for it in fields(step) if isinstance(text := getattr(step, it.name), str) and text]
    files = [folder / text.partition("{")[0].partition(":")[0] for text in texts]
    found = [digest_of(path) for file in files if file.is_file() for path in _with_data(file)]
    found += [digest_of(path) for file in files if file.is_dir() for path in sorted(file.iterdir())]
    others = sorted(other_packages(step))
    if others or any(":" in text for text in texts):
        found.append(_code(folder))
    return [*found, *(digest_of(Path(path)) for name in others if (path := _file(name)))]


def _with_data(file: Path) -> Iterable[Path]:
    """A file, and those beside it whose names begin with its name, as those of an ONNX model's weights do."""
    return sorted(file.parent.glob(f"{file.name}*"))


def _code(folder: Path) -> str:
    """A hash of the Python files in a folder."""
    return key([(path, digest_of(Path(path))) for path in sorted(files_beside(folder)) if path.endswith(".py")])


def _file(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)
