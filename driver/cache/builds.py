"""Whole builds: the files of an artifact, what was measured on it, and which files the recipe was found to read."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.files import writing
from ..evaluation import Score, find_metric
from ..measurement import Latency
from ..recipe import Recipe
from ..results import Artifact, AtSizes, Measured, plain, read_row
from ..timings import Told
from .inputs import Input, are_unchanged
from .store import Store

_BUILDS, _RECIPES = "artifacts", "recipes"


@dataclass(frozen=True, slots=True)
class Built:
    """The result of a build, before anything of it is in its place.

    Attributes:
        artifact: what was measured.
        directory: a folder with the artifact's files.
        provenance: what the manifest says of its origin, apart from the recipe.
        graphs: how the passes changed the graph, as `page.history.History.plain` has it.
        told: the times that the passes were told.
    """

    artifact: Artifact
    directory: Path
    provenance: Mapping[str, Any]
    graphs: Mapping[str, Any]
    told: Told


def keep_build(store: Store, key: str, built: Built) -> None:
    """Keep an artifact and what was measured on it.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    files = {path.name: store.put([_content(path)]) for path in sorted(built.directory.iterdir())}
    artifact = built.artifact
    record = {
        "files": files,
        "provenance": dict(built.provenance),
        "has_metric": artifact.metric is not None,
        "untouched": _plain(artifact.untouched),
        "built": _plain(artifact.built),
        "passes": plain(list(artifact.passes)),
        "threads": artifact.threads,
        "sizes": dict(artifact.sizes),
        "lengths": [
            [dict(it.sizes), _plain_latency(it.untouched), _plain_latency(it.built)] for it in artifact.lengths
        ],
        "graphs": store.put_json(built.graphs),
        "told": built.told,
    }
    store.write(_BUILDS, key, record)


def find_build(store: Store, key: str, recipe: Recipe, scratch: Path) -> Built | None:
    """An artifact that was kept, its files put into a folder; None where there is none, or a file of it is gone.

    Raises:
        UsageError: the disk is full, or the metric isn't there any more.
    """
    record = store.read(_BUILDS, key)
    if record is None:
        return None
    contents = {name: store.get(digest) for name, digest in record["files"].items()}
    graphs = store.get_json(record["graphs"])
    if graphs is None or any(content is None for content in contents.values()):
        return None
    directory = scratch / "kept"
    with writing(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for name, content in contents.items():
            (directory / name).write_bytes(b"" if content is None else content.data)
    artifact = Artifact(
        directory=recipe.folder / recipe.output,
        metric=find_metric(recipe.data.metric, recipe.folder) if record["has_metric"] else None,
        untouched=_measured(record["untouched"]),
        built=_measured(record["built"]),
        passes=[read_row(row) for row in record["passes"]],
        threads=record["threads"],
        sizes=record["sizes"],
        lengths=[AtSizes(sizes, *map(_latency, latencies)) for sizes, *latencies in record["lengths"]],
    )
    return Built(artifact, directory, record["provenance"], graphs, record["told"])


def remember_recipe(store: Store, key: str, inputs: Sequence[Input], build: str) -> None:
    """Keep which files a recipe's model and data were read from, and the key of the build that it led to.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    store.write(_RECIPES, key, {"inputs": [asdict(it) for it in inputs], "build": build})


def recall_recipe(store: Store, key: str) -> str | None:
    """The key of the build that a recipe led to, if all files that it read are what they were."""
    record = store.read(_RECIPES, key)
    if record is None or not are_unchanged(Input(**it) for it in record["inputs"]):
        return None
    return record["build"]


def _content(path: Path) -> memoryview | bytes:
    """A file's bytes, mapped into memory."""
    return np.memmap(path, np.uint8, mode="r").data if path.stat().st_size else b""  # nothing can't be mapped


def _plain(model: Measured) -> dict[str, Any]:
    score, latency = model.score, model.latency
    return {
        "backend": model.backend,
        "latency": None if latency is None else _plain_latency(latency),
        "size": model.size,
        "score": None
        if score is None
        else [score.value, None if score.hits is None else score.hits.tolist(), [*score.groups], [*score.resamples]],
    }


def _plain_latency(latency: Latency) -> list[list[float] | None]:
    return [None if seconds is None else seconds.tolist() for seconds in (latency.rounds, latency.processor)]


def _latency(record: Sequence[Sequence[float] | None]) -> Latency:
    rounds, processor = record
    return Latency(np.asarray(rounds), None if processor is None else np.asarray(processor))


def _measured(record: Mapping[str, Any]) -> Measured:
    latency, score = record["latency"], record["score"]
    return Measured(
        record["backend"],
        latency if latency is None else _latency(latency),
        record["size"],
        None
        if score is None
        else Score(score[0], None if score[1] is None else np.asarray(score[1], bool), *score[2:]),
    )
