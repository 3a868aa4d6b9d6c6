import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import ModelError
from planish.ir.finite import check_finite
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType


def graph_with(weight: np.ndarray) -> Graph:
    graph = Graph()
    op = Builder(graph, location=Location("encoder.bias"))
    x = graph.add_input("x", TensorType(DType.of(weight.dtype), weight.shape))
    graph.outputs["y"] = op.Add(x, op.constant(weight, "bias"))
    return graph


@pytest.mark.parametrize("dtype", [DType.float32, DType.float16, DType.bfloat16, DType.float64])
def test_nan_is_refused_with_the_weight_and_the_layer(dtype: DType) -> None:
    weight = np.ones((3, 4), dtype.numpy)
    check_finite(graph_with(weight))
    weight[1, 2] = np.nan
    with pytest.raises(ModelError, match=r"weight 'bias' of encoder\.bias holds NaN"):
        check_finite(graph_with(weight))


def test_infinities_integers_and_empty_weights_are_fine() -> None:
    for weight in (np.array([-np.inf, np.inf], np.float32), np.array([1, 2]), np.zeros((0, 3), np.float32)):
        check_finite(graph_with(weight))
