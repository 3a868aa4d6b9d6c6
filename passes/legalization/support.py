"""How a backend says what it runs as it is, what has to be spelled out for it, and what it can't run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ...ir.graph import Node
from ...ir.types import TensorType
from .expansion import Expansion

Condition: TypeAlias = Callable[[Node], bool]
Adjustment: TypeAlias = Callable[[Node], Expansion | None]
Objection: TypeAlias = Callable[[Node], str]


@dataclass(frozen=True, slots=True)
class Support:
    """A backend's abilities; of the standard's operators it runs whatever is not mentioned.

    Attributes:
        expanded: operators to spell out, and for which of their nodes.
        adjusted: operators that run only in some forms, and what brings a node into one of these; None where the node
            has one.
        refused: operators that can't be run, and why a node can't, as a phrase; empty where it can.
        domains: the domains that the backend has operators of, beside the standard's own.
        unheld: why values of a type can't be held, as a phrase; empty where they can.
        uncomputed: why a node of whatever operator can't be run, as a phrase; empty where it can.
        kernel: the operator whose kernel runs a node; another than the node's own where the backend fuses it with
            others.
        widened: the nodes on floats of half precision that are computed in float32, since the backend would round more
            often.
        advice: what to do where something is refused, as a phrase.
    """

    expanded: Mapping[str, Condition] = field(default_factory=dict[str, Condition])
    adjusted: Mapping[str, Adjustment] = field(default_factory=dict[str, Adjustment])
    refused: Mapping[str, Objection] = field(default_factory=dict[str, Objection])
    domains: frozenset[str] = frozenset()
    unheld: Callable[[TensorType], str] = field(default=lambda type: "")
    uncomputed: Objection = field(default=lambda node: "")
    kernel: Callable[[Node], str] = field(default=lambda node: node.operator)
    widened: Condition = field(default=lambda node: False)
    advice: str = ""
