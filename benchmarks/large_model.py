"""How much memory a model of several gigabytes takes on its way through planish, in ratio to its own size.

    python benchmarks/large_model.py [--gigabytes 3] [--folder SCRATCH] [--json RESULTS.json]

The model is a stack of float linear layers with random weights. Each path runs in a process of its own, whose peak of
resident memory the kernel reports, as to `/usr/bin/time -v`; pages of a mapped file count as far as they are resident.

    onnx to onnx     `planish opt IN.onnx -p cleanup -o OUT.onnx`, on a file that planish didn't write
    torch to onnx    `planish.trace` of a module, and `planish.write`
    .pt2 to onnx     `planish opt` of an archive of `torch.export`
    torch's onnx     `planish opt -p cleanup` of what the second path wrote, whose weights are to be transposed
    .planish, back   `planish opt` to a `.planish` file, and from it
    8-bit weights    `planish opt IN.onnx -p cleanup,quantize{scheme=int8-weights} -o OUT.onnx`

What comes out is run by ONNX Runtime and must compute what went in, but for what 8 bits
round. Three gigabytes need about 20 of disk.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

WIDTH = 4096
LAYER_BYTES = (WIDTH + 1) * WIDTH * 4
LIMIT = 1.3
QUANTIZED_LIMIT = 1.5
QUANTIZED = "8-bit weights"
CLI = (sys.executable, "-c", "from planish.driver.cli import main; main()")


@dataclass(frozen=True, slots=True)
class Result:
    """What one path takes: peak of resident memory in bytes, its ratio to the model's size, and the time."""

    path: str
    peak: int
    ratio: float
    seconds: float


# -- what runs in processes of its own


def generate_onnx(file: str, layers: str) -> None:
    """A foreign file: `Relu(x W + b)`, layer after layer, the weights in a file beside it, one in memory at a time."""
    import onnx
    from onnx import TensorProto, helper

    path, random = Path(file), np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    with path.with_suffix(".bin").open("wb") as data:
        for layer in range(int(layers)):
            for name, shape in ((f"w{layer}", (WIDTH, WIDTH)), (f"b{layer}", (WIDTH,))):
                tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
                tensor.data_location = TensorProto.EXTERNAL
                entries = {
                    "location": path.with_suffix(".bin").name,
                    "offset": data.tell(),
                    "length": 4 * np.prod(shape),
                }
                for key, value in entries.items():
                    tensor.external_data.add(key=key, value=str(value))
                weights.append(tensor)
                data.write((random.standard_normal(shape, np.float32) / np.sqrt(WIDTH / 2)).astype(np.float32))
            nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"m{layer}"]))
            nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]))
            nodes.append(helper.make_node("Relu", [f"a{layer}"], [f"x{layer + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())


def make_module(layers: str) -> tuple[Any, Any]:
    """The same stack in torch, with random weights, on rows of sequences."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    parts = [part for _ in range(int(layers)) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*parts).eval(), torch.randn(1, 2, WIDTH)


def trace_and_write(file: str, layers: str) -> None:
    import planish

    module, x = make_module(layers)
    planish.write(planish.trace(module, (x,)), file)


def save_archive(file: str, layers: str) -> None:
    import torch

    module, x = make_module(layers)
    torch.export.save(torch.export.export(module, (x,), strict=False), file)


def run_onnx(file: str, output: str) -> None:
    """What ONNX Runtime makes of fixed random numbers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 2 for size in port.shape]
    (result,) = session.run(None, {port.name: np.random.default_rng(1).standard_normal(shape, np.float32)})
    np.save(output, result)


STEPS: dict[str, Callable[[str, str], None]] = {
    step.__name__: step for step in (generate_onnx, trace_and_write, save_archive, run_onnx)
}


# -- the measurement


def measured(command: Sequence[str]) -> tuple[int, float]:
    """Peak of resident memory and seconds of a command.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read()}")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def step(function: Callable[[str, str], None], *arguments: object) -> list[str]:
    return [sys.executable, __file__, "--step", function.__name__, *map(str, arguments)]


def opt(source: Path, target: Path, pipeline: str = "cleanup") -> list[str]:
    return [*CLI, "opt", str(source), "-p", pipeline, "-o", str(target)]


def outputs(file: Path) -> np.ndarray:
    result = file.with_suffix(".npy")
    measured(step(run_onnx, file, result))
    return np.load(result)


def remove(folder: Path, *stems: str) -> None:
    for stem in stems:
        for file in folder.glob(f"{stem}.*"):
            file.unlink()


def measure_paths(folder: Path, layers: int) -> list[Result]:
    """Every path, with what it needs made first and deleted after it."""
    results: list[Result] = []
    size = layers * LAYER_BYTES

    def note(path: str, *commands: Sequence[str]) -> None:
        figures = [measured(command) for command in commands]
        peak = max(peak for peak, _ in figures)
        results.append(Result(path, peak, peak / size, sum(seconds for _, seconds in figures)))
        print(f"{path}: {peak / 1e9:.2f} GB", file=sys.stderr)

    source, result, again, graph, archive = (
        folder / name for name in ("source.onnx", "result.onnx", "again.onnx", "graph.planish", "archive.pt2")
    )
    measured(step(generate_onnx, source, layers))
    note("onnx to onnx", opt(source, result))
    expected = outputs(source)
    check(expected, outputs(result))
    remove(folder, "result")
    note(QUANTIZED, opt(source, result, "cleanup,quantize{scheme=int8-weights}"))
    check(expected, outputs(result), off=0.05)
    remove(folder, "result")
    note(".planish, back", opt(source, graph), opt(graph, result))
    remove(folder, "source", "graph")
    check(expected, outputs(result))
    remove(folder, "result")
    note("torch to onnx", step(trace_and_write, source, layers))
    note("torch's onnx", opt(source, result))
    expected = outputs(source)
    check(expected, outputs(result))
    remove(folder, "source", "result")
    measured(step(save_archive, archive, layers))
    note(".pt2 to onnx", opt(archive, again))
    remove(folder, "archive")
    check(expected, outputs(again))
    remove(folder, "again")
    return results


def check(expected: np.ndarray, result: np.ndarray, off: float = 1e-3) -> None:
    """Hold a result to what is expected, by the norm of the difference in ratio to the norm of that."""
    if not np.any(expected) or np.linalg.norm(result - expected) > off * np.linalg.norm(expected):
        raise SystemExit("the model computes something else than before")


def main(
    gigabytes: Annotated[float, typer.Option(help="The size of the model's weights, in gigabytes.")] = 3.0,
    folder: Annotated[Path | None, typer.Option(help="A folder for generated files, which are deleted again.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure every path, print a table, and fail if one takes more than 1.3 times the model (quantized, 1.5)."""
    layers = max(1, round(gigabytes * 1e9 / LAYER_BYTES))
    with tempfile.TemporaryDirectory(prefix="planish-large-", dir=folder) as scratch:
        results = measure_paths(Path(scratch), layers)
    table = Table(
        "path", "peak memory", "of the model", "seconds", title=f"A model of {layers * LAYER_BYTES / 1e9:.2f} GB"
    )
    for result in results:
        table.add_row(result.path, f"{result.peak / 1e9:.2f} GB", f"{result.ratio:.2f}", f"{result.seconds:.0f}")
    Console().print(table)
    if json_file is not None:
        rows = [asdict(result) for result in results]
        json_file.write_text(json.dumps({"bytes": layers * LAYER_BYTES, "paths": rows}, indent=2) + "\n")
    limits = {QUANTIZED: QUANTIZED_LIMIT}
    raise SystemExit(int(any(result.ratio > limits.get(result.path, LIMIT) for result in results)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        STEPS[sys.argv[2]](*sys.argv[3:])
    else:
        typer.run(main)
