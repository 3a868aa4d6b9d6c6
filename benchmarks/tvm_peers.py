"""How others run a model: ONNX Runtime, and OpenVINO with NNCF; each from a file to a function of named inputs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino
from fusion import session_of
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], Sequence[np.ndarray]]


def onnxruntime(file: Path, threads: int) -> Run:
    session = session_of(file, threads)
    return lambda feeds: session.run(None, feeds)


class Reader(CalibrationDataReader):
    def __init__(self, batches: Sequence[Feeds]) -> None:
        self._rest = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._rest, None)
        return None if batch is None else dict(batch)


def onnxruntime_static(file: Path, batches: Sequence[Feeds], threads: int, *, is_text: bool) -> Run:
    """ONNX Runtime's best static int8: uint8 activations (int8 trails float), products alone in transformers."""
    prepared, made = (file.with_suffix(f".{word}.onnx") for word in ("prepared", "static"))
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"] if is_text else None,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    return onnxruntime(made, threads)


def onnxruntime_dynamic(file: Path, threads: int) -> Run:
    made = file.with_suffix(".dynamic.onnx")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        products = sorted(
            {node.op_type for node in onnx.load(file, load_external_data=False).graph.node} - {"Attention"}
        )
        quantize_dynamic(file, made, op_types_to_quantize=products, weight_type=QuantType.QInt8)
    return onnxruntime(made, threads)


def openvino_int8(file: Path, batches: Sequence[Feeds], threads: int, *, is_text: bool) -> Run:
    """OpenVINO's int8 by NNCF, as its guide says: the preset for transformers where the model is one."""
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        model = nncf.quantize(
            openvino.Core().read_model(file),
            nncf.Dataset(batches, dict),
            model_type=nncf.ModelType.TRANSFORMER if is_text else None,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
        )
    return _compiled(model, threads)


def openvino_controlled(file: Path, batches: Sequence[Feeds], threads: int, *, is_text: bool) -> Run:
    """OpenVINO's int8 by NNCF, which takes layers back to float until outputs have a cosine of 0.999 with float's."""
    nncf.set_log_level(logging.ERROR)
    run, half = onnxruntime(file, threads), len(batches) // 2
    known = [(batch, np.ravel(run(batch)[0])) for batch in batches[half:]]

    def closeness(model: Any, items: Any) -> tuple[float, list[float]]:
        request, cosines = model.create_infer_request(), []
        for batch, wanted in items:
            found = np.ravel(request.infer(dict(batch))[0])
            cosines.append(float(found @ wanted / (np.linalg.norm(found) * np.linalg.norm(wanted))))
        return float(np.mean(cosines)), cosines

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        model = nncf.quantize_with_accuracy_control(
            openvino.Core().read_model(file),
            nncf.Dataset(batches[:half], dict),
            nncf.Dataset(known, lambda item: dict(item[0])),
            closeness,
            max_drop=0.001,
            drop_type=nncf.DropType.ABSOLUTE,
            model_type=nncf.ModelType.TRANSFORMER if is_text else None,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=half,
        )
    return _compiled(model, threads)


def openvino_int4(file: Path, threads: int, block: int = 32) -> Run:
    """OpenVINO's run with weights in 4 bits, in blocks along K, as NNCF rounds them."""
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        model = nncf.compress_weights(
            openvino.Core().read_model(file),
            mode=nncf.CompressWeightsMode.INT4_ASYM,
            group_size=block,
            ratio=1.0,
            all_layers=True,
        )
    return _compiled(model, threads)


def openvino_bfloat16(file: Path, threads: int) -> Run:
    """OpenVINO's run of a float32 model as it is: in bfloat16 where the CPU has such products."""
    return _compiled(openvino.Core().read_model(file), threads)


def _compiled(model: Any, threads: int) -> Run:
    """OpenVINO's run, in bfloat16 but for int8 where the CPU can; results lie in the request until the next call."""
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda feeds: list(request.infer(dict(feeds), share_inputs=True, share_outputs=True).values())
