"""What a new user writes and waits for: planish beside NNCF, Optimum and Olive on three jobs, in turns.

    pip install -e ".[build,benchmarks]"
    python -m venv nncf && nncf/bin/pip install nncf openvino onnx onnxruntime torch transformers
    python -m venv optimum && optimum/bin/pip install "optimum-onnx[onnxruntime]" datasets "huggingface-hub<1"
    python -m venv olive && olive/bin/pip install olive-ai onnxruntime torch transformers requests
    python benchmarks/first_hour.py --environment nncf --environment optimum --environment olive [--json RESULTS.json]

The jobs begin with what a user has: a ResNet-18 as an ONNX file and images to calibrate with; a BERT as
`save_pretrained` leaves it; a pipeline of scikit-learn (scaling and a network of three layers) as an ONNX file of
skl2onnx, and its table. They end with a file in int8, dynamic for BERT. What each tool takes lies beside this file in
`first_hour/TOOL`: `JOB.sh` has the commands, and `JOB.py` or `JOB.json` what has to be written. Empty lines, comments
and `mkdir` don't count. A comment `tried:` is an attempt, by the tool's own documentation, that failed with this error,
and counts as a try.

Each run has a folder and a cache of its own. Seconds are those of the whole commands, Python's start included; what
planish checks and measures is part of its own. Ratios are a tool's seconds over planish's of the same round, the median
of all rounds. The cosine is that of the last output to the source's, on data of which no tool has seen anything.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).with_suffix("")
JOBS = ("resnet18", "bert", "pipeline")
TOOLS = ("planish", "nncf", "optimum", "olive")


@dataclass(frozen=True, slots=True)
class Effort:
    """What a tool asks of its user for a job.

    Attributes:
        commands: the number of commands to enter.
        lines: the number of lines of programs and settings to write.
        tries: the number of tries until it worked, or was given up.
    """

    commands: int
    lines: int
    tries: int


@dataclass(frozen=True, slots=True)
class Run:
    """How a job went.

    Attributes:
        seconds: the seconds by the clock.
        processor: the processor seconds of all processes.
        size: bytes of what was written; 0 if it failed.
        cosine: the cosine of the last output to the source's.
        error: the last line of what failed.
    """

    seconds: float
    processor: float
    size: int = 0
    cosine: float = float("nan")
    error: str = ""


def effort(tool: str, job: str) -> Effort:
    """Count what lies in a tool's folder."""
    lines = {file.suffix: _lines(file) for file in (FOLDER / tool).glob(f"{job}.*")}
    shell = lines.pop(".sh")
    commands = [line for line in shell if not line.startswith(("#", "mkdir"))]
    written = sum(len([line for line in it if not line.startswith("#")]) for it in lines.values())
    return Effort(len(commands), written, 1 + sum(line.startswith("# tried:") for line in shell))


def _lines(file: Path) -> list[str]:
    return [line for line in map(str.strip, file.read_text(encoding="utf-8").splitlines()) if line]


# -- what a user has


def prepare(folder: Path, images: int, layers: int, width: int) -> dict[str, tuple[Path, dict[str, Any], Any]]:
    """Write each job's files: their folder, inputs to judge by, and what the source makes of these."""
    import torch
    import torchvision
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    for job in JOBS:
        (folder / job).mkdir()
    module, size = torchvision.models.resnet18().eval(), (3, 224, 224)
    dimensions = {"x": {0: torch.export.Dim("batch")}}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["scores"]}
    torch.onnx.export(
        module,
        (torch.zeros(2, *size),),
        folder / "resnet18" / "resnet18.onnx",
        dynamo=True,
        dynamic_shapes=dimensions,
        external_data=False,
        **names,
    )
    np.savez(folder / "resnet18" / "images.npz", image=torch.randn(images, *size).numpy())
    unseen = {"image": torch.randn(4, *size).numpy()}
    config = BertConfig(
        num_labels=3,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    bert = BertForSequenceClassification(config).eval()
    bert.save_pretrained(folder / "bert" / "bert")
    ids = torch.randint(1000, 20_000, (8, 32))
    texts = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids)}
    features, labels = load_digits(return_X_y=True)
    features = features.astype(np.float32)
    network = MLPClassifier((256, 256), random_state=0, max_iter=100)
    pipeline = make_pipeline(StandardScaler(), network).fit(features[:1000], labels[:1000])
    file = folder / "pipeline" / "pipeline.onnx"
    file.write_bytes(to_onnx(pipeline, features[:1], options={"zipmap": False}).SerializeToString())
    np.savez(folder / "pipeline" / "table.npz", X=features[:1000], labels=labels[:1000])
    with torch.inference_mode():
        scores, logits = module(torch.from_numpy(unseen["image"])).numpy(), bert(ids).logits.numpy()
    return {
        "resnet18": (folder / "resnet18", unseen, scores),
        "bert": (folder / "bert", texts, logits),
        "pipeline": (folder / "pipeline", {"X": features[1000:]}, pipeline.predict_proba(features[1000:])),
    }


# -- what a tool makes of it


def run(tool: str, job: str, binaries: Path, source: tuple[Path, dict[str, Any], Any]) -> Run:
    """Run a tool's commands in a folder of their own, and judge what they leave there."""
    given, inputs, expected = source
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder = Path(temporary, "work")
        shutil.copytree(given, folder)
        for file in (FOLDER / tool).glob(f"{job}.*"):
            shutil.copy(file, folder)
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PLANISH_CACHE": str(Path(temporary, "cache")),
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
        }
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        shell = ["bash", "-e", f"{job}.sh"]
        done = subprocess.run(shell, cwd=folder, env=environment, check=False, capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if done.returncode:
            said = done.stderr.strip().split("\n")
            return Run(seconds, processor, error=next((it for it in said[::-1] if "Error" in it), said[-1]))
        files = [*folder.glob("out.*"), *folder.glob("out/*")]
        models = [file for file in files if file.suffix in (".onnx", ".xml")]
        assert len(models) == 1, files
        size = sum(file.stat().st_size for file in files if file.suffix in (".onnx", ".data", ".xml", ".bin"))
        return Run(seconds, processor, size, cosine(output(models[0], inputs), expected))


def output(model: Path, inputs: dict[str, Any]) -> np.ndarray:
    """The last output of a file: scores; a classifier of scikit-learn gives labels before."""
    if model.suffix == ".xml":
        import openvino

        compiled = openvino.Core().compile_model(model, "CPU")
        return compiled(inputs)[compiled.outputs[-1]]
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    known = {port.name for port in session.get_inputs()}
    types = {"token_type_ids": np.zeros_like(inputs["input_ids"])} if "token_type_ids" in known else {}
    return session.run(None, {key: it for key, it in {**inputs, **types}.items() if key in known})[-1]


def cosine(found: np.ndarray, expected: np.ndarray) -> float:
    a, b = found.ravel().astype(float), np.asarray(expected, float).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# -- the comparison


def report(runs: dict[tuple[str, str], list[Run]]) -> bool:
    """Print what was found; whether planish does every job, and asks for no more than any other tool that does it."""
    table = Table("job", "tool", "commands", "lines", "tries", "seconds", "of processor", "ratio", "MB", "cosine")
    holds = True
    for (job, tool), found in runs.items():
        asked, last = effort(tool, job), found[-1]
        ours = runs[job, "planish"]
        if error := next((it.error for it in found if it.error), ""):
            table.add_row(job, tool, *map(str, asdict(asked).values()), f"can't: {error}"[:60])
            holds &= tool != "planish"
            continue
        own = effort("planish", job)
        holds &= own.commands <= asked.commands and own.lines <= asked.lines and own.tries <= asked.tries
        ratio = np.median([theirs.seconds / mine.seconds for theirs, mine in zip(found, ours, strict=True)])
        times = (np.median([getattr(it, key) for it in found]) for key in ("seconds", "processor"))
        cells = [f"{it:.1f}" for it in times] + [f"{ratio:.2f}", f"{last.size / 1e6:.2f}", f"{last.cosine:.4f}"]
        table.add_row(job, tool, *map(str, asdict(asked).values()), *cells)
    Console(width=None if os.isatty(1) else 130).print(table)
    return holds


def main(
    environment: Annotated[list[Path] | None, typer.Option(help="A tool's virtual environment, named like it.")] = None,
    only: Annotated[str | None, typer.Option(help="The one job to run.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds in which each tool does each job once.")] = 3,
    images: Annotated[int, typer.Option(help="Images to calibrate with.")] = 32,
    layers: Annotated[int, typer.Option(help="Layers of BERT.")] = 12,
    width: Annotated[int, typer.Option(help="The width of BERT, a multiple of 64.")] = 768,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Run all jobs with all tools, print a table, and fail where planish fails or asks for more than another tool."""
    places = {"planish": Path(sys.executable).parent, **{it.name: it.absolute() / "bin" for it in environment or []}}
    assert set(places) <= set(TOOLS), f"environments are named {', '.join(TOOLS[1:])}"
    jobs = JOBS if only is None else (only,)
    runs: dict[tuple[str, str], list[Run]] = {(job, tool): [] for job in jobs for tool in places}
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        sources = prepare(Path(temporary), images, layers, width)
        for _ in range(rounds):
            for job, tool in random.sample(list(runs), len(runs)):
                runs[job, tool].append(run(tool, job, places[tool], sources[job]))
                typer.echo(json.dumps({"job": job, "tool": tool, **asdict(runs[job, tool][-1])}), err=True)
    holds = report(runs)
    typer.echo(f"load: {os.getloadavg()[0]:.1f}")
    if json_file is not None:
        rows = [
            {"job": job, "tool": tool, **asdict(effort(tool, job)), "runs": [asdict(it) for it in found]}
            for (job, tool), found in runs.items()
        ]
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(int(not holds))


if __name__ == "__main__":
    typer.run(main)
