"""Another teacher: its inputs and outputs get the student's names, and what doesn't fit is refused."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.passes.distillation.teacher import aligned


def graph(inputs: str, output: str, width: int = 3, dtype: DType = DType.float32) -> Graph:
    """The first input minus the second one, if there are two."""
    made = Graph()
    given = [made.add_input(name, TensorType(dtype, ("batch", width))) for name in inputs]
    op = Builder(made)
    made.outputs[output] = op.Relu(op.Sub(*given) if len(given) > 1 else given[0])
    return made


def test_a_teacher_gets_the_student_s_names_by_place() -> None:
    teacher = graph("ba", "logits")

    copy = aligned(teacher, graph("ab", "y"))
    feeds = {"a": np.full((2, 3), 5, np.float32), "b": np.ones((2, 3), np.float32)}
    np.testing.assert_array_equal(Interpreter(copy).run(feeds)["y"], np.zeros((2, 3)))  # b - a, the names are hers

    copy = aligned(teacher, graph("xb", "y"))
    np.testing.assert_array_equal(Interpreter(copy).run({"x": feeds["a"], "b": feeds["b"]})["y"], np.full((2, 3), 4))
    assert list(teacher.outputs) == ["logits"]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (graph("ab", "y"), "the teacher has the inputs a, b, but the model has a"),
        (graph("a", "y", width=4), r"'a' is float32\[batch, 4\] in the teacher"),
        (graph("a", "y", dtype=DType.int64), r"'a' is int64\[batch, 3\] in the teacher"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(teacher: Graph, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        aligned(teacher, graph("a", "y"))
