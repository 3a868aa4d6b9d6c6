"""Sizes that are told by a few primes are those that torch's symbolic sizes give."""

import numpy as np
import pytest

from planish.ir import contents, infer
from planish.ir.builder import Builder
from planish.ir.graph import Constant, Graph, Value
from planish.ir.types import DType, TensorType


def types(monkeypatch: pytest.MonkeyPatch, *, is_plain: bool) -> list[str]:
    graph = Graph("test")
    shapes = {"x": ("batch", "length", 8), "y": ("rows", 8), "image": ("batch", 3, "high", "wide")}
    x, y, image = (graph.add_input(name, TensorType(DType.float32, shape)) for name, shape in shapes.items())
    kernel, weight, op = np.ones((4, 3, 3, 3), np.float32), np.ones((8, 5), np.float32), Builder(graph)
    with monkeypatch.context() as patch:
        patch.setattr(infer, "_FOUND", {})
        patch.setattr(contents, "_CONTENTS", {})
        if not is_plain:
            patch.setattr(infer._Inference, "_plain", lambda self: None)
            patch.setattr(contents, "_plain_contents", lambda value, names: None)
        joined, shape = op.Reshape(x, [-1, 8]), op.Shape(x)
        heads = op.Transpose(op.Reshape(x, [0, 0, 2, 4]), perm=(0, 2, 1, 3))
        made = [
            joined,
            heads,
            op.MatMul(x, weight),
            op.Add(joined, op.Reshape(x, [-1, 8])),
            op.ReduceSum(x, [1]),
            op.Reshape(heads, op.Concat(op.Mul(op.Slice(shape, [0], [1]), [2]), [-1], [4], axis=0)),
            op.Concat(y, y, axis=0),
            op.Concat(y, [[0.0] * 8], axis=0),
            op.Concat(joined, y, axis=0),
            op.Pad(x, [0, 1, 0, 0, 2, 0]),
            op.Pad(x, [0, -1, 0, 0, 0, 0]),
            op.Expand([1.0], shape),
            op.Slice(x, [0], [16], [1]),
            op.Slice(x, [0], [400], [1]),
            op.Slice(x, [1], [1 << 40], [1]),
            op.Slice(x, [0], [512], [1]),
            op.Slice(x, [0], [200_000], [1]),
            op.Slice(x, [-600], [1 << 40], [1]),
            op.Expand([1.0], op.Min(shape, [1 << 20])),
            op.Resize(image, None, [1.0, 1.0, 1.001, 1.0]),
            op.Conv(image, kernel),
            op.Conv(image, kernel, strides=(2, 2)),
            op.Conv(image, kernel, pads=(1, 1, 1, 1)),
            op.MaxPool(image, kernel_shape=(2, 2), strides=(2, 2)),
            op.Resize(image, None, [1.0, 1.0, 2.0, 2.0]),
        ]
    return [str(value.type) for value in made]


def test_plain_sizes_are_those_that_torch_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = types(monkeypatch, is_plain=True)
    assert plain == types(monkeypatch, is_plain=False)
    assert {"float32[batch * length, 8]", "float32[2 * batch, length, 4]", "float32[rows + 1, 8]"} <= set(plain)


def test_what_constants_tell_of_sizes_is_inferred_once_for_all_layers():
    def layer(name: str) -> list[TensorType]:
        x = Value(name, TensorType(DType.float32, (7, 11, 13)))
        return infer.infer("Reshape", [x, Constant(f"{name}.shape", np.array([77, 13]))], {})

    first, known = layer("first"), len(infer._FOUND)
    assert layer("second") == first == [TensorType(DType.float32, (77, 13))]
    assert len(infer._FOUND) == known
