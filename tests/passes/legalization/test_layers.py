import numpy as np
import pytest

from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.errors import TargetError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_determinants(spelled_out) -> None:
    for size in (1, 2, 3, 5):
        spelled_out("Det", floats(3, 2, size, size), dims=[("n", 2, size, size)])
    with pytest.raises(TargetError, match="layer: tvm can't run Det: its matrices are of n rows"):
        spelled_out("Det", floats(3, 3), dims=[("n", "n")])


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_convolutions_with_padding_of_their_own(spelled_out, mode: str, strides: tuple[int, int]) -> None:
    symbolic, window = ("n", 2, "height", "width"), {"auto_pad": mode, "strides": strides, "dilations": (1, 2)}
    for x in (floats(1, 2, 6, 7), floats(2, 2, 5, 3)):
        spelled_out("Conv", x, w := floats(4, 2, 3, 2), floats(4), dims=[symbolic, w.shape, (4,)], **window)
        spelled_out("ConvTranspose", x, w := floats(2, 3, 3, 2), floats(3), dims=[symbolic, w.shape, (3,)], **window)
    with pytest.raises(
        TargetError,
        match="tvm can't run ConvTranspose: rewriting it in simpler operators takes the size taps, which is known",
    ):
        spelled_out("ConvTranspose", x, w, dims=[x.shape, (2, 3, "taps", 2)], auto_pad=mode)


def test_padding_without_strides_is_the_same_for_images_of_any_size() -> None:
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.float32, ("n", 2, "height", "width")))
    graph.outputs = {"y": Builder(graph).Conv(x, floats(4, 2, 4, 3), auto_pad="SAME_UPPER", dilations=(1, 2))}
    legal = legalized(graph, load_target("x86-64"), "tvm")
    assert [(node.operator, node.attributes["pads"]) for node in legal.nodes] == [("Conv", (1, 2, 2, 2))]


def test_the_largest_of_all(spelled_out) -> None:
    spelled_out("GlobalMaxPool", floats(2, 3, 4, 5), dims=[("n", 3, "height", "width")])
