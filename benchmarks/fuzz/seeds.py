"""The files that mutations begin with: small ones of every format, each with much of what the format has."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.export import Dim

import planish
from planish.ir.storage import save
from planish.ir.text import parse_graph

_ONNX = {
    "mlp": (
        "net (float[n, 4] x) => (float[n, 2] y) "
        "{ h = MatMul(x, w)  r = Relu(h)  y = Gemm <alpha = 0.5, transB = 1> (r, v) }"
    ),
    "image": """net (float[n, 3, 8, 8] x) => (float[n, 40] y) {
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, k)
        p = MaxPool <kernel_shape = [2, 2], strides = [1, 1], ceil_mode = 1> (c)
        s = Shape <start = 0, end = 1> (p)  m = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (s, m)  f = Reshape(p, t)  y = Softmax <axis = 1> (f) }""",
    "branches": """net (bool c, float[n, 3] x) => (float[m, 3] y) {
        w = Constant <value = float[1, 3] {1, 2, 3}> ()
        y = If (c) <then_branch = g () => (float[n, 3] t) { t = Mul(x, w) },
                    else_branch = h () => (float[k, 3] t) { u = Concat <axis = 0> (x, w)  t = Relu(u) }> }""",
    "loop": """net (int64 steps, float[n] x) => (float[m] grown, float[k, m2] sums) {
        always = Constant <value = bool {1}> ()
        grown, sums = Loop (steps, always, x) <
          body = g (int64 i, bool c, float[p] s) => (bool c2, float[q] s2, float[1] sum) {
            c2 = Identity(c)  sum = ReduceSum(s)  two = Concat <axis = 0> (s, sum)  s2 = Identity(two) }> }""",
    "scan": """net (float[2] start, float[n, 2] x) => (float[2] last, float[2, n] all) {
        last, all = Scan <num_scan_inputs = 1, scan_output_axes = [1],
            body = g (float[2] s, float[2] row) => (float[2] s2, float[2] out) {
              s2 = Add(s, row)  out = Mul(s2, start) }> (start, x) }""",
    "sequences": """net (float[4, 2] x, int64 at) => (float[a, b] y) {
        parts = SplitToSequence <axis = 0> (x)
        doubled = SequenceMap (parts) <body = g (float[1, 2] p) => (float[1, 2] d) { d = Add(p, p) }>
        one = SequenceAt(doubled, at)  more = SequenceInsert(doubled, one)
        y = ConcatFromSequence <axis = 0> (more) }""",
    "sizes": """net (float[batch, "2*batch + 1", 6] x) => (float[a, b] y) {
        i = Constant <value_ints = [0]> ()  j = Constant <value_ints = [2]> ()
        two = Constant <value_ints = [1, 2, 1]> ()
        s = Slice(x, i, j, i)  t = Tile(s, two)  z = NonZero(t)  f = Cast <to = 1> (z)  k = Constant <value_int = 2> ()
        v, at = TopK <axis = 1> (f, j)  y = Transpose <perm = [1, 0]> (v) }""",
    "recurrent": """net (float[5, n, 4] x) => (float[5, 1, n, 3] y, float[1, n, 3] h) {
        y, h = GRU <hidden_size = 3, direction = "forward", activations = ["Sigmoid", "Tanh"]> (x, gw, gr) }""",
}
_WEIGHTS = {
    "mlp": {"w": (4, 3), "v": (2, 3)},
    "image": {"k": (4, 3, 3, 3)},
    "recurrent": {"gw": (1, 9, 4), "gr": (1, 9, 3)},
}
_FUNCTION = """<ir_version: 10, opset_import: ["": 24, "mine": 1]>
net (float[n] x) => (float[n] y) { t = mine.twice <k = 3> (x)  y = mine.twice(t) }
<domain: "mine", opset_import: ["": 24]> once <k> (a) => (b) { c = Constant <value_int: int = @k> ()  \
d = Cast <to = 1> (c)  b = Mul(a, d) }
<domain: "mine", opset_import: ["": 24, "mine": 1]> twice <k> (a) => (b) { \
c = mine.once <k: int = @k> (a)  b = Add(c, a) }"""

RECIPE = b"""\
model: model.py:build
data: {calibration: data.npz, evaluation: data.py:test, metric: accuracy}
target: x86-64
backend: onnxruntime
passes:
  - cleanup
  - fuse
  - prune-channels: {ratio: 0.3, only: "features.*"}
  - fixpoint(fold-constants, cse)
  - quantize: &options {scheme: int8}
  - quantize: *options
budget: {metric_drop: 1%, latency: 5 ms, size: 10 MB}
tuned: tuning.json
output: dist/
seed: 7
"""
TUNING = {
    "format": 1,
    "targets": {
        "x86-64 skylake -avx512f": {
            "product 128x64x32": {"parameters": {"rows": 4, "columns": 16, "depth": 64}, "gain": 1.25},
            "attention 8x64": {"parameters": {"queries": 4}, "gain": 1.0},
        }
    },
}


def write_seeds(folder: Path) -> None:
    """Write all seeds, in a folder for each format."""
    for name, seeds in _all().items():
        (folder / name).mkdir(parents=True)
        for number, content in enumerate(seeds):
            (folder / name / f"{number}").write_bytes(content)


def _all() -> dict[str, list[bytes]]:
    targets = sorted((Path(planish.__file__).parent / "targets").glob("*.toml"))
    data = _npz(x=np.ones((8, 4), np.float32), labels=np.arange(8))
    probes = _npz(**{"0/x": np.ones((2, 64), np.float32), "0/c": np.array(True)})  # of the graph
    return {
        "onnx": _onnx(),
        "pt2": _pt2(),
        "planish": [_planish()],
        "npz": [data, probes],
        "yaml": [RECIPE],
        "toml": [path.read_bytes() for path in targets],
        "json": [json.dumps(TUNING).encode()],
        "reproducer": [
            json.dumps(
                {"pipeline": "cleanup,fuse{only=a}", "target": "x86-64", "seed": 3, "error": "CheckError: x"}
            ).encode()
        ],
    }


def _onnx() -> list[bytes]:
    random = np.random.default_rng(0)
    found = [onnx.parser.parse_model(_FUNCTION)]
    for opset in (24, 24, 24, 24, 21, 13, 9):
        for name, body in _ONNX.items():
            if opset < 21 and name not in ("mlp", "scan"):
                continue
            model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {body}')
            for weight, shape in _WEIGHTS.get(name, {}).items():
                array = random.random(shape, dtype=np.float32)
                model.graph.initializer.append(numpy_helper.from_array(array, weight))
            found.append(model)
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(found[1], path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        found.append(onnx.load(path, load_external_data=False))
    return [model.SerializeToString() for model in found]


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x, x])).relu() * self.scale


def _pt2() -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.pt2")
        torch.export.save(torch.export.export(_Net(), (torch.ones(4, 4),), dynamic_shapes=({0: Dim("n")},)), path)
        return [path.read_bytes()]


def _planish() -> bytes:
    text = """graph "g"(%x: float32[batch, 64], %c: bool[]) {
      const %w: float32[64, 64]
      const %s: float32[] = 2.0
      const %shape: int64[2] = [0, -1]
      %y: float32[batch, 64] = MatMul(%x, %w) @ "fc" "model.py:1"
      %z: float32[batch, 64] = If(%c) {
        then_branch = graph "a"() { %a: float32[batch, 64] = Mul(%y, %s)  return a = %a },
          else_branch = graph "b"() { %b: float32[batch, 64] = Neg(%y)  return b = %b }}
      %r: float32[batch, 64] = Reshape(%z, %shape) {allowzero = 0}
      return logits = %r
    }"""
    weights = {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    with TemporaryDirectory() as folder:
        save(parse_graph(text, weights), Path(folder, "g.planish"))
        return Path(folder, "g.planish").read_bytes()


def _npz(**arrays: np.ndarray) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "data.npz")
        np.savez(path, **arrays)
        return path.read_bytes()
