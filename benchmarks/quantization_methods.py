"""Methods that store SmolLM2's weights in few bits: plain rounding, planish's pipelines, and its peers."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import quantization_peers as peers
import torch
from quantization_language import Finding, Logits, Method, Place, Scheme, Task, Work, measure, runner
from torch import nn

from planish.ir.block_weight import BlockScheme, BlockWeight

PIPELINES: Mapping[str, Mapping[str, str]] = {
    "int8 by row": {
        "planish": "quantize{scheme=int8-weights,block=0}",
        "planish, activations in int8 too": "quantize{scheme=int8-dynamic}",
    },
    "int4 in blocks of 64": {
        "planish": "quantize{scheme=int4,block=64}",
        "planish, head in float": "quantize{scheme=int4,block=64,skip=*lm_head*}",
    },
    "int4 by row": {"planish": "quantize{scheme=int4,block=0}"},
    "int3 in blocks of 64": {"planish": "quantize{scheme=int3,block=64}"},
}
"""What planish is asked for by scheme, after `cleanup,fuse`, and needs no data."""

_LAYERS = "bits={0},block={1},samples=32,skip=*lm_head*"
_AWQ_GPTQ = f"awq{{{{{_LAYERS}}}}},gptq{{{{{_LAYERS}}}}}"
CALIBRATED_PIPELINES: Mapping[str, Mapping[str, str]] = {
    scheme: {
        "planish, with data": PIPELINES[scheme]["planish"],
        "planish, awq, gptq": pipeline,
        "planish, awq, gptq, tuned": f"{pipeline},tune-scales",
    }
    for scheme, pipeline in {
        "int4 in blocks of 64": _AWQ_GPTQ.format(4, 64),
        "int4 by row": _AWQ_GPTQ.format(4, 0),
        "int3 in blocks of 64": _AWQ_GPTQ.format(3, 64),
    }.items()
}
"""What planish is asked for by scheme and looks at calibration data for."""

ROUNDING = "rounding"


def rounding(work: Work) -> Logits:
    """Round the decoder's weights to the nearest on grids over the least and the greatest of a block."""
    model = work.place.module()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and "lm_head" not in name:
            matrix = layer.weight.detach().numpy().T
            scheme = BlockScheme(work.scheme.bits, work.scheme.block or len(matrix))
            rounded = BlockWeight.nearest(matrix, scheme).floats
            layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(rounded.T)))
    return runner(model)


def planish(pipeline: str, *, sees_data: bool) -> Method:
    """Return what runs a pipeline on the traced model, with data or without, and its artifact for ONNX Runtime."""

    def make(work: Work) -> Logits:
        import planish
        from planish.backends import find_backend
        from planish.backends.artifact import load, write_artifact
        from planish.targets.load import load_target

        graph = planish.read(work.place.graph)
        name = graph.inputs[0].name
        data = [{name: ids[None]} for ids in work.calibration] if sees_data else ()
        made = planish.optimize(graph, f"cleanup,fuse,{pipeline}", data=data, seed=work.seed).graph
        artifact = work.out / "artifact"
        write_artifact(artifact, made, find_backend("onnxruntime"), load_target("native"))
        executable = load(artifact, threads=torch.get_num_threads())
        return lambda ids: executable(ids)[0]

    return make


PEERS: Mapping[str, Method] = {
    "ONNX Runtime, RTN": peers.onnxruntime_rounding,
    "ONNX Runtime, HQQ": peers.onnxruntime_hqq,
    "OpenVINO, rounding": peers.openvino(),
    "torchao": peers.torchao(),
    "torchao, HQQ": peers.torchao("hqq_scale_only", "symmetric"),
}
CALIBRATED_PEERS: Mapping[str, Method] = {
    "ONNX Runtime, GPTQ": peers.onnxruntime_gptq,
    "OpenVINO, AWQ": peers.openvino(awq=True),
    "OpenVINO, AWQ + scale estimation": peers.openvino(awq=True, scale_estimation=True),
    "OpenVINO, AWQ + scale estimation + GPTQ": peers.openvino(awq=True, scale_estimation=True, gptq=True),
    "auto-round, 200 steps": peers.auto_round(200),
}


def data_free(scheme: Scheme) -> dict[str, Method]:
    """Methods by name that no seed changes; rounding comes first."""
    ours = {name: planish(pipeline, sees_data=False) for name, pipeline in PIPELINES[scheme.name].items()}
    return {ROUNDING: rounding} | ours | PEERS


def calibrated(scheme: Scheme) -> dict[str, Method]:
    """Methods by name that look at calibration data."""
    pipelines = CALIBRATED_PIPELINES.get(scheme.name, {})
    ours = {name: planish(pipeline, sees_data=True) for name, pipeline in pipelines.items()}
    return ours | (CALIBRATED_PEERS if scheme.bits < 8 else {})


def run(place: Place, task: Task) -> Finding:
    """Measure one method; a process should do no other."""
    make = (data_free(task.scheme) | calibrated(task.scheme))[task.method]
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        return measure(place, task, make, Path(folder))
