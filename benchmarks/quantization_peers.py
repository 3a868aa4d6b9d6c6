"""How others store a language model's weights in few bits: ONNX Runtime, OpenVINO with NNCF, torchao and auto-round.

Each is run by its own engine with activations in float32, so that what differs is the weights. Embeddings and the head
are what each tool makes of them when it isn't told otherwise.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantization_language import Logits, Method, Work, runner
from torch import nn


class Unable(Exception):  # noqa: N818 -- it is a finding, not an error of a benchmark
    """A tool has no such scheme."""


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what tools print of their progress."""
    logging.disable(logging.WARNING)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


# -- ONNX Runtime


def onnxruntime_rounding(work: Work) -> Logits:
    """Let MatMulNBits' default quantizer round."""
    return _matmul_nbits(work, None)


def onnxruntime_hqq(work: Work) -> Logits:
    """Let MatMulNBits' quantizer choose zero points by HQQ."""
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

    return _matmul_nbits(work, HQQWeightOnlyQuantConfig(block_size=_block(work), bits=work.scheme.bits))


def onnxruntime_gptq(work: Work) -> Logits:
    """Let MatMulNBits' quantizer round by GPTQ."""
    from onnxruntime.quantization.matmul_nbits_quantizer import GPTQWeightOnlyQuantConfig
    from tvm_peers import Reader

    if work.scheme.bits != 4:
        raise Unable("GPTQ is for 4 bits")
    reader = Reader([{"input_ids": ids[None]} for ids in work.calibration])
    return _matmul_nbits(work, GPTQWeightOnlyQuantConfig(reader, block_size=_block(work)))


def _block(work: Work) -> int:
    if work.scheme.block is None:
        raise Unable("a block is no row")
    return work.scheme.block


def _matmul_nbits(work: Work, algorithm: Any) -> Logits:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    bits, block = work.scheme.bits, work.scheme.block
    if bits not in (4, 8):
        raise Unable(f"it stores no weights in {bits} bits")
    file = work.out / "model.onnx"
    with quiet():
        quantizer = MatMulNBitsQuantizer(
            onnx.load(work.place.folded),
            bits=bits,
            block_size=block or 128,
            channel_wised_quantize=block is None,
            algo_config=algorithm,
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(file))
    return onnx_logits(file)


def onnx_logits(file: Path) -> Logits:
    """What runs an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, {"input_ids": ids})[0]


# -- OpenVINO


def openvino(**options: bool) -> Method:
    """Return what compresses weights by NNCF, with its options `awq`, `scale_estimation` and `gptq`."""

    def make(work: Work) -> Logits:
        import nncf
        import openvino

        bits, block = work.scheme.bits, work.scheme.block
        if bits not in (4, 8):
            raise Unable(f"it stores no weights in {bits} bits")
        sizes: dict[str, Any] = {"group_size": block or -1, "ratio": 1.0} if bits == 4 else {}
        if options:
            sizes["dataset"] = nncf.Dataset([{"input_ids": ids[None]} for ids in work.calibration])
            sizes["subset_size"] = len(work.calibration)
        mode = nncf.CompressWeightsMode.INT4_ASYM if bits == 4 else nncf.CompressWeightsMode.INT8_ASYM
        core = openvino.Core()
        with quiet():
            model = nncf.compress_weights(core.read_model(work.place.onnx), mode=mode, **sizes, **options)
            openvino.save_model(model, work.out / "model.xml", compress_to_fp16=False)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return lambda ids: np.array(next(iter(request.infer([ids]).values())))

    return make


# -- torchao, auto-round


def torchao(algorithm: str = "affine", mapping: str = "asymmetric") -> Method:
    """Return what quantizes Linear layers by torchao's `IntxWeightOnlyConfig`."""

    def make(work: Work) -> Logits:
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerAxis, PerGroup
        from torchao.quantization.quant_primitives import MappingType

        bits, block = work.scheme.bits, work.scheme.block
        config = IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{bits}"),
            granularity=PerAxis(0) if block is None else PerGroup(block),
            mapping_type=MappingType[mapping.upper()],
            intx_choose_qparams_algorithm=algorithm,
        )
        model = work.place.module()
        quantize_(model, config, lambda layer, name: isinstance(layer, nn.Linear) and "head" not in name)
        torch.save(model.state_dict(), work.out / "model.pt")
        return runner(model)

    return make


def auto_round(iterations: int) -> Method:
    """Return what learns the rounding of weights by signed gradients, for so many steps a block of the model."""

    def make(work: Work) -> Logits:
        with quiet():
            from auto_round import AutoRound
            from transformers import AutoTokenizer

            tuner = AutoRound(
                work.place.module(),
                AutoTokenizer.from_pretrained(work.place.checkpoint),
                bits=work.scheme.bits,
                group_size=work.scheme.block or -1,
                sym=False,
                iters=iterations,
                nsamples=len(work.calibration),
                seqlen=work.calibration.shape[1],
                batch_size=4,
                seed=work.seed,
                device_map="cpu",
                dataset=[{"input_ids": torch.from_numpy(ids[None])} for ids in work.calibration],
            )
            model, _ = tuner.quantize()
        return runner(model.float().eval())

    return make
