"""What int8 takes from MiniLM's real weights: planish, OpenVINO with NNCF and ONNX Runtime on 50 documents.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/int8_fidelity.py

The model and the documents are those of examples/minilm: sentence embeddings of all-MiniLM-L6-v2, calibrated on another
corpus. The cosine is that of each document's embedding with float32's; the rank correlation that of the likeness of all
pairs of documents. OpenVINO and ONNX Runtime get the file as torch's exporter's own optimizer leaves it.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm_peers as peers
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import planish

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/minilm"
OURS = {
    "planish, static": "quantize",
    "planish, dynamic": "quantize{scheme=int8-dynamic}",
    "planish, dynamic by rows": "quantize{scheme=int8-dynamic,per_row=true}",
    "the same, attention in bfloat16": "quantize{scheme=int8-dynamic,per_row=true},reduce-precision",
}
THREADS = 2

Embed = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


def main() -> None:
    """Measure and print a table."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(EXAMPLE))
    import data
    import model

    module, inputs, dynamic = model.build()
    background, test = list(data.calibration()), list(data.batches(data.read("lee.cor"), 1))
    with tempfile.TemporaryDirectory(prefix="planish-") as folder, torch.no_grad():
        expected = np.concatenate([module(*map(torch.from_numpy, batch.values())).numpy() for batch in test])
        file = Path(folder, "minilm.onnx")
        torch.onnx.export(module, inputs, file, dynamic_shapes=dynamic, dynamo=True, verbose=False, external_data=False)
        graph = planish.trace(module, inputs, dynamic_shapes=dynamic)
        makers: dict[str, Callable[[], Embed]] = {
            who: lambda pipeline=pipeline: ours(graph, pipeline, background) for who, pipeline in OURS.items()
        }
        makers |= {
            "OpenVINO + NNCF": lambda: peers.openvino_int8(file, background, THREADS, is_text=True),
            "ONNX Runtime, static": lambda: peers.onnxruntime_static(file, background, THREADS, is_text=True),
            "ONNX Runtime, dynamic": lambda: peers.onnxruntime_dynamic(file, THREADS),
        }
        table = Table("int8", "mean cosine", "worst", "rank correlation of pairs")
        for who, make in makers.items():
            embed = make()
            table.add_row(who, *scores(expected, np.concatenate([np.array(embed(batch)[0]) for batch in test])))
    Console().print(table)


def ours(graph: Any, pipeline: str, background: Sequence[Mapping[str, np.ndarray]]) -> Embed:
    quantized = planish.optimize(graph, f"cleanup,fuse,{pipeline}", data=background).graph
    executable = planish.compile(quantized, backend="tvm")
    return lambda batch: executable(*batch.values())


def scores(expected: np.ndarray, found: np.ndarray) -> list[str]:
    cosines = (expected * found).sum(-1) / np.linalg.norm(found, axis=-1)
    pairs = np.triu_indices(len(expected), 1)
    correlation = spearmanr((expected @ expected.T)[pairs], (found @ found.T)[pairs]).statistic
    return [f"{value:.4f}" for value in (cosines.mean(), cosines.min(), correlation)]


if __name__ == "__main__":
    main()
