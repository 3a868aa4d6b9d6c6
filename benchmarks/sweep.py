"""What a user meets who tries planish on a model that nobody here tried: a build of each model by each pipeline.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/sweep.py RESULTS.jsonl [--only 'timm/*'] [--files FOLDER] [--pipeline quantize] [--backend tvm]

The models are one of every family of timm and torchvision, architectures of transformers in small configurations, and
the ONNX files below the folders of --files. Each case is the command `planish build` as a user would type it, in a
process of its own with a limit of time and memory, on random data. The lines of RESULTS.jsonl are written as the cases
end, and the cases that it holds aren't run again. A case is

    fine      built, checked, and at least as fast and as small as the model in ONNX Runtime
    refused   planish said what can't be done, and why
    slower    built, but slower than the model in ONNX Runtime by more than the measurement's interval
    larger    built, but with more bytes than the model's ONNX file, without the code of kernels
    long      fine, but it took more than its share of time
    wrong     a check failed, or the artifact's outputs aren't those of the model where passes keep them
    crash     anything else: an exception, a dead process, too much memory
    hang      no end within the limit
    unbuilt   there is no model: no small configuration of the architecture runs
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import typer
from rich.console import Console

PIPELINES = {
    "fuse": "cleanup,fuse",
    "quantize": "cleanup,fuse,quantize",
    "int8-dynamic": "cleanup,fuse,quantize{scheme=int8-dynamic}",
    "reduce-precision": "cleanup,fuse,reduce-precision",
    "prune-channels": "cleanup,prune-channels{ratio=0.3},fuse",
    "factorize": "cleanup,factorize{energy=0.9},fuse",
}
BACKENDS = ("onnxruntime", "tvm")
OUTCOMES = ("fine", "refused", "slower", "larger", "long", "wrong", "crash", "hang", "unbuilt")

BATCHES = 8
"""Batches of random data that a model is calibrated with."""
SHARE = 60.0
"""The seconds that a build of a model of such a size may take."""
MEMORY = 12 << 30
"""The bytes of address space beyond which a build is a crash."""
TOLERANCE = 1e-3
"""The relative error (L2) that outputs may have where passes keep what a model computes."""
ARCHITECTURES = 60
"""How many of transformers' architectures are taken, evenly from all of them."""
CODES = {2: "refused", 3: "refused", 4: "wrong", 6: "refused"}
"""What exit codes say of a build; all others are those of crashes."""


# -- the models


def names(files: Sequence[Path]) -> list[str]:
    """The names of the models, as `zoo.build` takes them, and the paths of ONNX files."""
    import zoo
    from torchvision.models import get_model_weights

    every = zoo.names(dynamic=False)
    families: dict[str, list[str]] = defaultdict(list)
    for name in every:
        if name.startswith("torchvision/"):
            families[re.split(r"\d|_", name)[0]].append(name)
    smallest = [
        min(family, key=lambda it: next(iter(get_model_weights(it.rpartition("/")[2]))).meta["num_params"])
        for family in families.values()
    ]
    others = [name for name in every if name.startswith("transformers/")]
    chosen = others[:: max(len(others) // ARCHITECTURES, 1)]
    timm = [name for name in every if name.startswith("timm/")]
    found = sorted(str(file) for folder in files for file in folder.rglob("*.onnx"))
    return [*smallest, *timm, *chosen, *found]


def prepare(name: str, folder: Path) -> None:
    """Write a model with random data and its outputs into a folder; run in a process of its own.

    Raises:
        PlanishError: planish doesn't take the model.
    """
    import torch
    import zoo

    import planish
    from planish.passes.probes import make_probes

    torch.set_num_threads(2)
    if name.endswith(".onnx"):
        graph = planish.read(name)
        feeds = [dict(make_probes(graph, (), seed=seed)[0]) for seed in range(BATCHES)]
    else:
        try:
            subject = zoo.build(name)
        except zoo.Unbuilt as error:
            (folder / "unbuilt").write_text(str(error))
            return
        args, options = subject.inputs(0, subject.sizes[0])
        graph = planish.trace(subject.module, args, options)
        given = [zoo.tensors(subject.inputs(seed, subject.sizes[0])) for seed in range(1, BATCHES + 1)]
        feeds = [
            {value.name: tensor.numpy() for value, tensor in zip(graph.inputs, tensors, strict=True)}
            for tensors in given
        ]
    planish.write(graph, folder / "model.onnx")
    for number, feed in enumerate(feeds):
        np.savez(folder / f"batch{number}.npz", **feed)
    (folder / "data.py").write_text(_DATA)


_DATA = """from pathlib import Path

import numpy as np


def batches():
    for file in sorted(Path(__file__).parent.glob("batch*.npz")):
        yield dict(np.load(file))
"""


# -- a case


def run(command: Sequence[str], seconds: float, folder: Path) -> tuple[int | None, str, str]:
    """Run a command within limits; returns its exit code, None if it took too long, and its stdout and stderr."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    environment = {**os.environ, "PLANISH_CACHE": str(folder / "cache")}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=limit,  # noqa: PLW1509 -- nothing else runs in this process
    ) as process:
        try:
            printed = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, *process.communicate()
    return process.returncode, *printed


def case(folder: Path, pipeline: str, backend: str, seconds: float) -> tuple[str, str]:
    """Build a model that lies in a folder; returns the outcome, and what is to be said about it."""
    output = folder / f"{pipeline}-{backend}"
    options = ["-p", PIPELINES[pipeline], "-b", backend, "-d", "data.py:batches", "-o", output.name, "--json"]
    start = time.perf_counter()
    code, printed, told = run([sys.executable, "-m", "planish", "build", "model.onnx", *options], seconds, folder)
    took = time.perf_counter() - start
    if code is None:
        return "hang", f"no end within {seconds:.0f} s: {_last(told)}"
    if code:
        return CODES.get(code, "crash"), f"exit code {code}: {_last(told)}"
    summary = json.loads(printed)
    code, printed, told = run([sys.executable, __file__, "--distance", output.name], seconds, folder)
    if code != 0:
        return "crash", f"the artifact doesn't run: {_last(told)}"
    error, speed = float(printed), summary["speedup"]
    code_bytes = sum(library.stat().st_size for library in output.glob("*.so"))
    size = (summary["built"]["size_bytes"] - code_bytes) / summary["untouched"]["size_bytes"]
    detail = f"{took:.0f} s, error {error:.1e}, size {size:.2f}, speed {speed['median']:.2f} ({speed['lower']:.2f} to "
    detail += f"{speed['upper']:.2f})"
    if pipeline == "fuse" and not error < TOLERANCE:
        return "wrong", detail
    if speed["upper"] < 1:
        return "slower", detail
    if size > 1:
        return "larger", detail
    return ("long" if took > SHARE else "fine"), detail


def _last(told: str) -> str:
    """The error in what a command told on stderr, in one line."""
    _, mark, error = told.rpartition("error: ")
    return " ".join((error if mark else told[told.rstrip().rfind("\n") + 1 :]).split())[:400]


def distance_of(output: Path) -> float:
    """The largest relative error of an artifact's outputs on the first batch, against those of the model's file."""
    import onnxruntime
    from workers import distance

    import planish

    feeds = dict(np.load("batch0.npz"))
    session = onnxruntime.InferenceSession("model.onnx")
    expected = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
    found = planish.load(output)(**feeds)
    return max((distance(np.asarray(a), np.asarray(b)) for a, b in zip(found, expected, strict=True)), default=0.0)


# -- all cases


def main(
    results: Annotated[Path | None, typer.Argument(help="The file of outcomes, a line for each case.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    files: Annotated[list[Path] | None, typer.Option(help="A folder that holds ONNX files.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PIPELINES)}.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="onnxruntime or tvm.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds after which a build counts as hung.")] = 300,
    every: Annotated[int, typer.Option(help="Take each model of so many, evenly from all.")] = 1,
    show: Annotated[bool, typer.Option("--show", help="Print the table of what RESULTS.jsonl holds, and end.")] = False,
    distance: Annotated[Path | None, typer.Option(hidden=True)] = None,
    prepare_in: Annotated[tuple[str, Path] | None, typer.Option("--prepare", hidden=True)] = None,
) -> None:
    """Build models that nobody tried by every pipeline for every backend, and count what happened."""
    if distance is not None:
        print(distance_of(distance))
        return
    if prepare_in is not None:
        from planish.ir.errors import PlanishError

        try:
            prepare(*prepare_in)
        except PlanishError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        return
    if results is None:
        raise typer.BadParameter("name the file of outcomes")
    if not show:
        chosen = [name for name in names(files or []) if any(fnmatchcase(name, it) for it in only or ["*"])][::every]
        with results.open("a", encoding="utf-8") as file:
            for row in outcomes(chosen, pipeline or list(PIPELINES), backend or BACKENDS, seconds, _rows(results)):
                file.write(json.dumps(row) + "\n")
                file.flush()
                Console(stderr=True).print(" ".join(row.values()), markup=False, highlight=False, soft_wrap=True)
    report(_rows(results))


def outcomes(
    chosen: Sequence[str], pipelines: Sequence[str], backends: Sequence[str], seconds: float, done: Sequence[Any]
) -> Iterator[dict[str, str]]:
    """The outcome of each case that isn't done, as it ends."""
    seen = {(row["model"], row["pipeline"], row["backend"]) for row in done}
    for name in chosen:
        missing = [(p, b) for p in pipelines for b in backends if (name, p, b) not in seen]
        if not missing:
            continue
        with tempfile.TemporaryDirectory(prefix="planish-sweep-") as place:
            folder = Path(place)
            code, _, told = run([sys.executable, __file__, "--prepare", name, place], seconds, folder)
            for pipeline, backend in missing:
                if (folder / "unbuilt").exists():
                    outcome, detail = "unbuilt", (folder / "unbuilt").read_text()[:300]
                elif code != 0:
                    outcome = "hang" if code is None else CODES.get(code, "crash")
                    detail = f"reading it: {_last(told)}"
                else:
                    outcome, detail = case(folder, pipeline, backend, seconds)
                yield {"outcome": outcome, "model": name, "pipeline": pipeline, "backend": backend, "detail": detail}


def report(rows: Sequence[Any]) -> None:
    """Print how often each outcome came about, by pipeline and backend, as a table in Markdown."""
    print(f"{len({row['model'] for row in rows})} models\n")
    print(f"| pipeline | backend | {' | '.join(OUTCOMES)} |\n|{'-|' * (len(OUTCOMES) + 2)}")
    for pipeline in PIPELINES:
        for backend in BACKENDS:
            counts = Counter(row["outcome"] for row in rows if (row["pipeline"], row["backend"]) == (pipeline, backend))
            print(f"| {pipeline} | {backend} | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} |")


def _rows(results: Path) -> list[dict[str, str]]:
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    typer.run(main)
