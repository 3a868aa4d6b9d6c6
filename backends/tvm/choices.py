"""Kernels that can be generated in several ways: the estimated time decides, or what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import IntEnum
from typing import Any

from ...ir.errors import ModelError
from ...ir.graph import Node

Parameters = Mapping[str, int]
"""Of a template, by name."""


class Plainness(IntEnum):
    """How much a kernel asks of a compiler that died over a better one."""

    BEST = 0
    """All that the machine has."""
    PLAIN = 1
    """A template of planish's without the machine's special instructions."""
    IMPORTED = 2
    """What TVM makes of the operators itself, one by one."""


def result_of(node: Node) -> str:
    """The name of what the last node of a kernel yields, which tells kernels apart in all copies of a graph."""
    return node.outputs[0].name


class UnfitError(ModelError):
    """Parameters that a kernel can't have."""


@dataclass(frozen=True, slots=True)
class Site:
    """A kernel's place in a graph, before it is decided in which way it is generated.

    Attributes:
        kernel: the name of the template.
        layer: where it stands.
        sizes: a record of what is computed, without what follows it.
        ways: records of the template's parameters, the one with the least estimated time first.
        call: a Relax call of the kernel that is generated in one of these ways.
    """

    kernel: str
    layer: str
    sizes: Any
    ways: Sequence[Any]
    call: Callable[[Any], Any]

    @property
    def key(self) -> str:
        return f"{self.kernel} {spelled(self.sizes)}"


@dataclass(frozen=True, slots=True)
class Choices:
    """What decides.

    Attributes:
        measured: the parameters that were found to be the fastest, by a site's key.
        source: the file that says so.
    """

    measured: Mapping[str, Parameters] = field(default_factory=dict[str, Parameters])
    source: str = ""

    def made(self, site: Site) -> Any:
        """The call of a kernel in the way that was measured to be the fastest, or is estimated to be.

        Raises:
            UnfitError: what was measured isn't one of the ways.
        """
        wanted = self.measured.get(site.key)
        if wanted is None:
            return site.call(site.ways[0])
        for way in site.ways:
            if asdict(way) == wanted:
                return site.call(way)
        raise UnfitError(f"{self.source}: {site.key} can't have {dict(wanted)}: run `planish tune` anew")


ESTIMATED = Choices()
"""By estimated times alone."""


def spelled(record: Any) -> str:
    """The fields of a dataclass in a line, without those that have their default; those of records in it are among them."""
    words: list[str] = []
    for part in fields(record):
        value = getattr(record, part.name)
        if value == part.default:
            continue
        if is_dataclass(value):
            words.append(spelled(value))
        elif value is True:
            words.append(part.name)
        else:
            sizes = value if isinstance(value, tuple) else (value,)
            words.append(f"{part.name}={'x'.join('?' if size is None else str(size) for size in sizes)}")
    return " ".join(words)
