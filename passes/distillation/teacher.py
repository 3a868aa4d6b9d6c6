"""A model that teaches another one: its inputs and outputs under the names that the student has for them."""

from collections.abc import Sequence

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ...ir.suggestion import nearest
from ...ir.types import TensorType


def aligned(teacher: Graph, student: Graph, pairs: Sequence[tuple[str, str]] = ()) -> Graph:
    """A copy of a teacher whose inputs and outputs have the student's names, by position where these differ.

    Args:
        teacher: the other model.
        student: the model whose names are taken.
        pairs: pairs of an output of the student and one of the teacher; others are left out. All outputs where empty.

    Raises:
        UsageError: the teacher has more or fewer inputs or outputs, or some of another type or shape.
    """
    copy = teacher.clone()
    inputs, outputs = list(student.inputs), student.outputs
    _match("inputs", [value.name for value in copy.inputs], [value.name for value in inputs])
    if pairs:
        for names, graph, owner in zip(zip(*pairs, strict=True), (student, copy), ("model", "teacher"), strict=True):
            for name in names:
                if name not in graph.outputs:
                    raise UsageError(f"distill: the {owner} has no output {name!r}{nearest(name, graph.outputs)}")
        copy.outputs = {ours: copy.outputs[theirs] for ours, theirs in pairs}
        outputs = {ours: outputs[ours] for ours, _ in pairs}
    _match("outputs", list(copy.outputs), list(outputs))
    if {value.name for value in copy.inputs} != {value.name for value in inputs}:
        wanted = {value.name for value in inputs}
        for value in copy.values():
            if value.name in wanted:
                copy.rename(value, f"{value.name}_of_teacher")  # out of the way
        for value, twin in zip(copy.inputs, inputs, strict=True):
            copy.rename(value, twin.name)
    if copy.outputs.keys() != outputs.keys():
        copy.outputs = dict(zip(outputs, copy.outputs.values(), strict=True))
    ours = {value.name: value for value in inputs} | outputs
    for name, value in [*((value.name, value) for value in copy.inputs), *copy.outputs.items()]:
        _compare(name, value.type, ours[name].type)
    return copy


def _match(what: str, teacher: list[str], student: list[str]) -> None:
    if len(teacher) != len(student):
        raise UsageError(
            f"distill: the teacher has the {what} {', '.join(teacher)}, but the model has {', '.join(student)}: "
            "both need the same number"
        )


def _compare(name: str, teacher: TensorType, student: TensorType) -> None:
    is_alike = teacher.dtype is student.dtype or (teacher.dtype.is_trainable and student.dtype.is_trainable)
    if is_alike and teacher.is_ranked and student.is_ranked:
        dims = list(zip(teacher.shape, student.shape, strict=False))
        is_alike = teacher.rank == student.rank
        is_alike &= all(one == other for one, other in dims if isinstance(one, int) and isinstance(other, int))
    if not is_alike:
        raise UsageError(
            f"distill: {name!r} is {teacher} in the teacher, but {student} in the model: types and shapes must agree"
        )
