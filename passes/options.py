"""The options of passes: their types, ranges and units, as the fields of the classes declare them."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from inspect import get_annotations
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, Unit

from ..ir.errors import UsageError
from ..ir.suggestion import nearest
from . import units

_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple[str, ...]: "texts"}
_UNITS = {"B": units.BYTES, "s": units.SECONDS, "1": units.PARTS}
"""Units that options may have, as `annotated_types.Unit`: bytes, seconds, and parts of a whole, which `%` goes with."""
_ITEM = re.compile(r'"(?:[^"\\]|\\.)*"|[^|]+')


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """An option of a pass.

    Attributes:
        name: the field's name.
        type: int, float, bool, str or a tuple of str.
        default: the value where none is given.
        choices: the texts that the value may be; empty where it may be any.
        bounds: the bounds of a number.
        unit: the unit of a number, a key of `_UNITS`; empty where it has none.
    """

    name: str
    type: Any
    default: Any
    choices: tuple[str, ...] = ()
    bounds: tuple[Ge | Gt | Le | Lt, ...] = ()
    unit: str = ""

    def parse(self, value: Any) -> Any:
        """Read a value from its text, or from a value of about the right type.

        Raises:
            ValueError: the value is of another type.
        """
        match value:
            case str():
                return self._parse_text(value)
            case list() | tuple() if self.type == tuple[str, ...]:
                return tuple(map(str, value))
            case int() | float() if self.type is float and not isinstance(value, bool):
                return float(value)
            case bool() | int() if type(value) is self.type:
                return value
            case _:
                raise ValueError(f"takes {_TYPES[self.type]}, not {value!r}")

    def _parse_text(self, text: str) -> Any:
        if self.type == tuple[str, ...]:
            return tuple(_unquoted(item) for item in _ITEM.findall(text))
        if self.type is str:
            return _unquoted(text)
        if self.type is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        for read in (self.type, self._measured) if self.type is not bool else ():
            with suppress(ValueError):
                return read(text)
        raise ValueError(f"takes {_TYPES[self.type]}, not {text!r}")

    def _measured(self, text: str) -> Any:
        """An amount with its unit, such as `64 KiB`."""
        return self.type(units.parse(text, _UNITS.get(self.unit, {})))

    def check(self, value: Any) -> None:
        """Hold a value to the choices and the bounds.

        Raises:
            ValueError: the value is none of the choices, or out of bounds.
        """
        if self.choices and value not in self.choices:
            raise ValueError(f"can't be {value!r}{nearest(value, self.choices)}")
        for bound in self.bounds:
            match bound:
                case Gt():
                    holds = value > bound.gt
                case Ge():
                    holds = value >= bound.ge
                case Lt():
                    holds = value < bound.lt
                case Le():
                    holds = value <= bound.le
            if not holds:
                raise ValueError(f"must be {self.range}, not {value!r}")

    @property
    def kind(self) -> str:
        """The type in words."""
        return _TYPES[self.type]

    @property
    def range(self) -> str:
        """The bounds as a phrase, such as `above 0 and below 1`; empty where there are none."""
        return " and ".join(map(_phrase, self.bounds))


def _phrase(bound: Ge | Gt | Le | Lt) -> str:
    match bound:
        case Gt():
            return f"above {bound.gt:g}"
        case Ge():
            return f"at least {bound.ge:g}"
        case Lt():
            return f"below {bound.lt:g}"
        case Le():
            return f"at most {bound.le:g}"


@cache
def options_of(kind: type) -> dict[str, Option]:
    """The options of a pass by name, its own first; the settings of any other dataclass likewise."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    own = get_annotations(kind)
    hints = get_type_hints(kind, include_extras=True)
    ordered = sorted((field for field in fields if field.init), key=lambda field: field.name not in own)
    return {field.name: _option(field, hints[field.name]) for field in ordered if _is_text(hints[field.name])}


def _is_text(annotation: Any) -> bool:
    """Whether values of a type can be written in a pipeline's text."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return bare in _TYPES or get_origin(bare) is Literal


def _option(field: "dataclasses.Field[Any]", annotation: Any) -> Option:
    bare, *metadata = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    items = list(_flattened(metadata))
    is_choice = get_origin(bare) is Literal
    return Option(
        field.name,
        str if is_choice else bare,
        field.default,
        get_args(bare) if is_choice else (),
        tuple(item for item in items if isinstance(item, Ge | Gt | Le | Lt)),
        next((item.unit for item in items if isinstance(item, Unit)), ""),
    )


def _flattened(metadata: Any) -> Iterator[Any]:
    for item in metadata:
        yield from item if isinstance(item, GroupedMetadata) else (item,)


def check_options(step: Any) -> None:
    """Hold the options of a pass to their ranges and choices.

    Raises:
        UsageError: an option is out of its range or none of its choices; the error names it and the pass.
    """
    for option in options_of(type(step)).values():
        try:
            option.check(getattr(step, option.name))
        except ValueError as error:
            raise UsageError(f"option {option.name} of pass {step.name} {error}") from None


def read_options(kind: type, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the values of options from texts, or from values already of the right type.

    Args:
        kind: the pass class.
        name: the name by which the pass was asked for.
        given: the given values, by the options' names.

    Raises:
        UsageError: an option is unknown, or a value is of another type.
    """
    known = options_of(kind)
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"pass {name} has no option {key!r}{nearest(key, known)}")
        try:
            values[key] = known[key].parse(value)
        except ValueError as error:
            raise UsageError(f"option {key} of pass {name} {error}") from None
    return values


def format_options(step: Any) -> str:
    """The options of a pass that are not at their defaults, as `{ratio=0.3}`, or an empty text."""
    given = {
        option.name: getattr(step, option.name)
        for option in options_of(type(step)).values()
        if getattr(step, option.name) != option.default
    }
    return "{" + ",".join(f"{name}={format_value(value)}" for name, value in given.items()) + "}" if given else ""


def format_value(value: Any) -> str:
    """The text of an option's value, as a pipeline has it."""
    if isinstance(value, tuple):
        return "|".join(map(format_value, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (not value or re.search(r'[\s(){}=,|"]', value)):
        return json.dumps(value)
    return str(value)


def _unquoted(text: str) -> str:
    try:
        return json.loads(text) if text.startswith('"') else text
    except json.JSONDecodeError as error:
        raise ValueError(f"is {text}, which is no quoted text: {error.msg}") from None
