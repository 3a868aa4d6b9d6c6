"""Operators as they are, and as they are spelled out for TVM."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target


@pytest.fixture
def spelled_out() -> Callable[..., None]:
    """A check that an operator is spelled out in others, and that these give the same."""

    def check(
        operator: str,
        *arrays: np.ndarray | None,
        outputs: int = 1,
        dims: Sequence[Sequence[int | str]] | None = None,
        **attributes: object,
    ) -> None:
        """Hold the results to each other.

        Args:
            operator: the operator that is spelled out.
            arrays: the inputs, with None for those that are left out.
            outputs: the number of outputs.
            dims: the dimensions of the inputs, if they aren't those of the arrays.
            attributes: the node's attributes.
        """
        graph = Graph("test")
        shapes = dims or [() if array is None else array.shape for array in arrays]
        feeds = {f"x{index}": array for index, array in enumerate(arrays) if array is not None}
        inputs = [
            None if array is None else graph.add_input(f"x{index}", TensorType(DType.of(array.dtype), tuple(shape)))
            for index, (array, shape) in enumerate(zip(arrays, shapes, strict=True))
        ]
        made = Builder(graph, location=Location("layer"))(operator, *inputs, outputs=outputs, **attributes)
        graph.outputs = {f"y{index}": y for index, y in enumerate(made if isinstance(made, tuple) else [made])}
        legal = legalized(graph, load_target("x86-64"), "tvm")
        kept = {"Conv", "ConvTranspose"} & {operator}  # without the attributes that are spelled out
        assert operator not in {node.operator for node in legal.nodes} - kept
        found = Interpreter(legal).run(feeds)
        for name, expected in Interpreter(graph).run(feeds).items():
            assert found[name].dtype == expected.dtype
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)

    return check
