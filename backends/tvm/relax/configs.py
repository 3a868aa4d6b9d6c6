"""Choices between the ways of generating a kernel: the estimated time decides, or what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Generic, TypeVar

from ....ir.errors import ModelError
from ....ir.graph import Node

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from tvm import relax

Way = TypeVar("Way", bound="DataclassInstance")

Parameters = Mapping[str, int]
"""The parameters of a template, by name."""


class Plainness(IntEnum):
    """How plain a kernel is, after a compiler died over a better one."""

    BEST = 0
    """A kernel with all instructions that the machine has."""
    PLAIN = 1
    """A template of planish's without the machine's special instructions."""
    IMPORTED = 2
    """TVM's own kernels for the operators, one by one."""


def result_of(node: Node) -> str:
    """Return the name of a kernel's result, that of its last node: it identifies the kernel in copies of a graph."""
    return node.outputs[0].name


class UnfitError(ModelError):
    """Parameters that a kernel can't have."""


@dataclass(frozen=True, slots=True)
class TuningTask(Generic[Way]):
    """A kernel's place in a graph, before it is decided in which way it is generated.

    Attributes:
        kernel: the name of the template.
        layer: the layer that the kernel belongs to.
        sizes: a record of what is computed, without what follows it.
        ways: records of the template's parameters, the one with the least estimated time first.
        call: a Relax call of the kernel that is generated in one of these ways.
    """

    kernel: str
    layer: str
    sizes: "DataclassInstance"
    ways: Sequence[Way]
    call: Callable[[Way], "relax.Call"]

    @property
    def key(self) -> str:
        return f"{self.kernel} {spelled(self.sizes)}"


@dataclass(frozen=True, slots=True)
class TuningPolicy:
    """The choices for all kernels of a build.

    Attributes:
        measured: the fastest parameters, by a task's key.
        source: the file of the measurements.
    """

    measured: Mapping[str, Parameters] = field(default_factory=dict[str, Parameters])
    source: str = ""

    def made(self, task: TuningTask[Way]) -> "relax.Call":
        """Return the kernel's call in the fastest way, by measurements or else by estimates.

        Raises:
            UnfitError: what was measured isn't one of the ways.
        """
        wanted = self.measured.get(task.key)
        if wanted is None:
            return task.call(task.ways[0])
        for way in task.ways:
            if asdict(way) == wanted:
                return task.call(way)
        raise UnfitError(f"{self.source}: {task.key} can't have {dict(wanted)}: run `planish tune` anew")


ESTIMATED = TuningPolicy()
"""The choices by estimated times alone."""


def spelled(record: "DataclassInstance") -> str:
    """Spell the fields of a dataclass in a line, without those that have their default.

    Fields of nested dataclasses are spelled among them, unless they have a name of their own.
    """
    words: list[str] = []
    for part in fields(record):
        value = getattr(record, part.name)
        if value == part.default:
            continue
        if is_dataclass(value) and not isinstance(value, type) and type(value).__str__ is object.__str__:
            words.append(spelled(value))
        elif value is True:
            words.append(part.name)
        else:
            sizes = value if isinstance(value, tuple) else (value,)
            words.append(f"{part.name}={'x'.join('?' if size is None else str(size) for size in sizes)}")
    return " ".join(words)
