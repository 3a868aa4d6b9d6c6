"""What a pattern function writes becomes a tree: patterns of values over operators applied to patterns.

The function is called once, with a `PatternBuilder` in place of the builder and a `Variable` for each other parameter.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...ir.builder import attribute_value
from ...ir.errors import UsageError
from ...ir.graph import Attribute


@dataclass(frozen=True, slots=True)
class Variable:
    """Matches any value, and an optional input that is left out; the same one wherever the name recurs.

    Attributes:
        name: the name of the function's parameter.
        is_constant: whether the value must be a constant, and must be there.
    """

    name: str
    is_constant: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """Matches a constant of one element that is this number."""

    value: float


@dataclass(frozen=True, slots=True)
class Optional:
    """Matches what its pattern does, and an input that is left out."""

    pattern: "Present | Either"


@dataclass(frozen=True, slots=True)
class Either:
    """Matches what one of its patterns does; names that only the others have stand for None."""

    patterns: "tuple[Present, ...]"


@dataclass(frozen=True, slots=True)
class Rest:
    """Matches all further inputs of a node, however many, as a tuple."""

    name: str


@dataclass(frozen=True, slots=True)
class AttributeVariable:
    """Matches whatever an attribute is, though no graph; the same wherever the name recurs."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """Matches a node: an operator applied to what its operands match. The same one is the same node.

    Attributes:
        operator: the operator's name, with its domain.
        operands: the patterns for the node's inputs in order; inputs beyond the last must be left out or be the `rest`.
        rest: the pattern for all further inputs; None if none are allowed.
        attributes: the attributes that are looked at, by name.
        outputs: how many outputs the node has; None where it may have some, after the first, that nobody reads.
    """

    operator: str
    operands: tuple["Pattern", ...]
    rest: Rest | None
    attributes: Mapping[str, "Attribute | AttributeVariable"]
    outputs: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """Matches one of a node's outputs."""

    application: Application
    index: int = 0


Present: TypeAlias = Variable | Number | Result
Pattern: TypeAlias = Present | Optional | Either
Name: TypeAlias = str | Rest | AttributeVariable
"""What a match binds by name: a variable's to a value, a `Rest` to a tuple of them."""
Key: TypeAlias = Name | Application
"""All that a match binds: an `Application` to a node."""


class PatternBuilder:
    """Stands in for the builder while a pattern is read: records what the function writes."""

    def __call__(self, operator: str, *operands: Any, outputs: int | None = None, **attributes: Any) -> Any:
        """An operator's result, or of several `outputs` a tuple of them.

        Args:
            operator: the operator's name, with its domain unless that is ONNX's own.
            operands: patterns of values, or numbers; the last may be a `rest`.
            outputs: how many outputs the node has.
            attributes: the attributes that the node must have, as values or as `op.attribute(...)`.

        Raises:
            UsageError: an operand is something else.
        """
        rest = operands[-1] if operands and isinstance(operands[-1], Rest) else None
        recorded = tuple(map(_operand, operands[:-1] if rest else operands))
        held = {key: attribute_value(value) for key, value in attributes.items()}
        application = Application(operator, recorded, rest, held, outputs)
        results = tuple(Result(application, index) for index in range(outputs or 1))
        return results[0] if len(results) == 1 else results

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if operator.startswith("_"):
            raise AttributeError(operator)

        def record(*operands: Any, outputs: int | None = None, **attributes: Any) -> Any:
            return self(operator, *operands, outputs=outputs, **attributes)

        return record

    def constant(self, variable: Variable) -> Variable:
        """A variable that stands for constants only."""
        return Variable(variable.name, is_constant=True)

    def optional(self, pattern: Any) -> Optional:
        """An operand that may be left out; its variables are then None. Plain variables needn't be marked."""
        operand = _operand(pattern)
        return operand if isinstance(operand, Optional) else Optional(operand)

    def either(self, *patterns: Any) -> Either:
        """An operand that may be written in several ways; what only other ways bind is None, and a `rest` empty."""
        operands = map(_operand, patterns)
        return Either(tuple(choice for operand in operands for choice in choices(operand)))

    def rest(self, variable: Variable) -> Rest:
        """All operands from here on, as a tuple of values."""
        return Rest(variable.name)

    def attribute(self, name: str) -> AttributeVariable:
        """An attribute under a name by which the replacement gets it.

        Where the node doesn't set it, it is the schema's default, or None if there is no such.
        """
        return AttributeVariable(name)


def _operand(operand: Any) -> Pattern:
    if isinstance(operand, int | float):
        return Number(operand)
    if isinstance(operand, Variable | Number | Optional | Either | Result):
        return operand
    raise UsageError(f"{operand!r} is no operand of a pattern: these are variables, numbers and results of operators")


def choices(pattern: Pattern) -> tuple[Present, ...]:
    """What a pattern may match, if it is there."""
    if isinstance(pattern, Either):
        return pattern.patterns
    return choices(pattern.pattern) if isinstance(pattern, Optional) else (pattern,)


def parts(pattern: Pattern, below: tuple[Result, ...] = ()) -> Iterator[tuple[Present, tuple[Result, ...]]]:
    """A pattern and all those in it, each with what is below it, nearest first; one that is used twice comes twice."""
    for inner in choices(pattern):
        yield inner, below
        if isinstance(inner, Result):
            for operand in inner.application.operands:
                yield from parts(operand, (inner, *below))


def key_of(part: Variable | Result) -> str | Application:
    """What a variable or a result's node is bound under."""
    return part.name if isinstance(part, Variable) else part.application


def applications(patterns: Iterable[Pattern]) -> Mapping[Application, int]:
    """The nodes of patterns, each with how deep it lies at most: 1 for that of a pattern itself."""
    depths: dict[Application, int] = {}
    waiting = [(choice, 1) for pattern in patterns for choice in choices(pattern)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, Result) and depths.get(part.application, 0) < depth:
            depths[part.application] = depth
            operands = part.application.operands
            waiting += [(choice, depth + 1) for operand in operands for choice in choices(operand)]
    return depths


def keys(patterns: Sequence[Pattern]) -> Iterator[Name]:
    """The names that patterns bind, without those of nodes; one that is used twice may come twice."""
    found = applications(patterns)
    for operand in (*patterns, *(operand for application in found for operand in application.operands)):
        yield from (choice.name for choice in choices(operand) if isinstance(choice, Variable))
    for application in found:
        yield from (value for value in application.attributes.values() if isinstance(value, AttributeVariable))
        yield from (application.rest,) if application.rest is not None else ()
