"""The JSON Schema of recipes, by which editors complete and check them: `planish recipe-schema`."""

from typing import Any, cast

from annotated_types import Ge, Gt, Le, Lt

from ..passes.options import Option, options_of
from ..passes.pipeline import PRESETS, pass_classes
from .recipe import Recipe

_TYPES = {int: "integer", float: ["number", "string"], bool: "boolean", str: "string"}
"""What options are in JSON; numbers may have units."""

_REFERENCE = {"type": "string", "pattern": r"\$\{"}
"""The texts that stand for variables, in whole or in part."""


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe, with the options of every pass."""
    schema = _with_variables(Recipe.model_json_schema(mode="validation"))
    properties = schema["properties"]
    for hidden in ("folder", "name"):
        properties.pop(hidden, None)
    passes = {name: _options(kind) for name, kind in pass_classes().items()}
    presets = {name: _options(None) for name in PRESETS}
    named = {"type": "string", "anyOf": [{"enum": sorted({*passes, *presets})}, {}]}
    step = {"type": "object", "properties": {**presets, **passes}, "minProperties": 1, "maxProperties": 1}
    properties["passes"]["anyOf"][-1]["items"] = {"anyOf": [named, step]}
    properties["include"] = {
        "type": "string",
        "description": "Another recipe, whose keys hold where this one has none.",
    }
    properties["variables"] = {
        "type": "object",
        "description": "Values by name; ${name} stands for one in all other keys.",
        "additionalProperties": {"type": ["string", "number", "boolean"], "not": _REFERENCE},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A recipe of planish"}


def _options(kind: type | None) -> dict[str, Any]:
    """The options of a pass; None for a preset, which takes those of a group."""
    if kind is None:
        return {"type": "object"}
    options = {name: _with_variables(_option(option)) for name, option in options_of(kind).items()}
    return {"type": "object", "properties": options, "additionalProperties": False}


def _option(option: Option) -> dict[str, Any]:
    if option.choices:
        return {"enum": list(option.choices), "default": option.default}
    if option.type not in _TYPES:
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
    found: dict[str, Any] = {"type": _TYPES[option.type], "default": option.default}
    for bound in option.bounds:
        match bound:
            case Gt():
                found["exclusiveMinimum"] = bound.gt
            case Ge():
                found["minimum"] = bound.ge
            case Lt():
                found["exclusiveMaximum"] = bound.lt
            case Le():
                found["maximum"] = bound.le
    return found


def _with_variables(schema: Any) -> Any:
    """A schema that allows references to variables as well where it asks for numbers, truth values or certain texts."""
    match schema:
        case list():
            return [_with_variables(part) for part in cast("list[Any]", schema)]
        case {"enum": list(names), **others}:
            return {**others, "anyOf": [{"enum": names}, _REFERENCE]}
        case {"const": str(name), **others}:
            return {**others, "anyOf": [{"const": name}, _REFERENCE]}
        case {"type": "integer" | "number" | "boolean" as kind}:
            return {**schema, **_REFERENCE, "type": [kind, "string"]}
        case dict():
            return {key: _with_variables(part) for key, part in cast("dict[str, Any]", schema).items()}
        case _:
            return schema
