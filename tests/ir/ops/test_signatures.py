"""Every operator's signature says what its schema says."""

import inspect
from typing import Any

import numpy as np
import onnx
import pytest

from planish.ir.ops import operators
from planish.ir.opset import OPSET

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
STANDARD = sorted(name for name in operators() if name.rpartition("::")[0] in DOMAINS)
UNKNOWN = {
    "Constant": "becomes one of the graph's own",
    "ai.onnx.ml::CastMap": "of a map",
    "ai.onnx.ml::DictVectorizer": "of a map",
    "ai.onnx.preview.training::Gradient": "of the graph around it",
}
GIVEN_UP = {"ai.onnx.ml::TreeEnsembleClassifier", "ai.onnx.ml::TreeEnsembleRegressor"}
"""Operators that their domain has given up, but converters still write."""
EMPTY = inspect.Parameter.empty


def test_every_operator_of_the_standard_is_there() -> None:
    schemas = {
        f"{schema.domain}::{schema.name}".removeprefix("::"): schema
        for schema in onnx.defs.get_all_schemas()
        if schema.domain in DOMAINS
    }
    current = {name for name, schema in schemas.items() if not schema.deprecated}
    assert current - set(STANDARD) == UNKNOWN.keys()
    assert set(STANDARD) - current == GIVEN_UP


@pytest.mark.parametrize("name", STANDARD)
def test_inputs_are_the_schemas(name: str) -> None:
    schema = schema_of(name)
    parameters = [parameter for parameter in _parameters(name) if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(parameters) == len(schema.inputs)
    for parameter, formal in zip(parameters, schema.inputs, strict=True):
        variadic = formal.option is onnx.defs.OpSchema.FormalParameterOption.Variadic
        optional = formal.option is onnx.defs.OpSchema.FormalParameterOption.Optional
        assert (parameter.kind is inspect.Parameter.VAR_POSITIONAL) == variadic, formal.name
        assert parameter.default is (None if optional else EMPTY), formal.name


@pytest.mark.parametrize("name", STANDARD)
def test_attributes_and_their_defaults_are_the_schemas(name: str) -> None:
    attributes = schema_of(name).attributes
    given = {
        parameter.name: parameter.default
        for parameter in _parameters(name)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in ("outputs", "input_dtype")
    }
    assert given.keys() == attributes.keys()
    assert {key: _rounded(default) for key, default in given.items()} == {
        key: _rounded(_default(attribute)) for key, attribute in attributes.items()
    }


@pytest.mark.parametrize("name", STANDARD)
def test_operators_of_many_outputs_return_or_count_them(name: str) -> None:
    schema = schema_of(name)
    is_variadic = schema.outputs[-1].option is onnx.defs.OpSchema.FormalParameterOption.Variadic
    if schema.min_output != schema.max_output and not is_variadic:
        assert operators()[name].takes_outputs


def test_host_inputs_are_marked() -> None:
    assert operators()["Reshape"].host == {1}
    assert operators()["Slice"].host == {1, 2, 3, 4}
    assert operators()["Resize"].host == {1, 2, 3}
    assert operators()["Conv"].host == frozenset()


def schema_of(name: str) -> onnx.defs.OpSchema:
    domain, _, operator = name.rpartition("::")
    schema = onnx.defs.get_schema(operator, domain) if domain else onnx.defs.get_schema(operator, OPSET)
    if name in GIVEN_UP:
        schema = onnx.defs.get_schema(operator, schema.since_version - 1, domain)
    assert not schema.deprecated
    return schema


def _parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(operators()[name].function).parameters.values())


def _default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    if attribute.required:
        return EMPTY
    if not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
    return value


def _rounded(default: Any) -> Any:
    return float(np.float32(default)) if isinstance(default, float) else default
