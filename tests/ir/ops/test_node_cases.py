"""The ONNX standard's own cases for operators, computed by ours on real tensors, on meta tensors and symbolically."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.test_case import TestCase as Case
from random_graphs.cases import standard_cases
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from planish.ir.ops import Operator, operators
from planish.ir.ops.dtypes import dtype_of, to_numpy, to_torch
from planish.ir.ops.meta_kernels import FastMeta
from planish.ir.opset import OPSET
from planish.ir.types import DType

EXCLUDED = {
    "test_bernoulli": "random",
    "test_bernoulli_double": "random",
    "test_bernoulli_double_expanded": "random",
    "test_bernoulli_expanded": "random",
    "test_bernoulli_seed": "random",
    "test_bernoulli_seed_expanded": "random",
    "test_training_dropout": "random",
    "test_training_dropout_default": "random",
    "test_training_dropout_default_mask": "random",
    "test_training_dropout_mask": "random",
}
Run = Callable[[Operator, list[Any], dict[str, Any]], Any]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(standard_cases().values())


def test_cases_agree_with_the_standard(cases: list[Case]) -> None:
    passed: Counter[str] = Counter()
    failed: dict[str, str] = {}
    for case in cases:
        if case.name in EXCLUDED or not _is_known(case):
            continue
        try:
            for wanted, got in zip(_wanted(case), _compute(case.model.graph, _feeds(case)), strict=True):
                _compare(to_numpy(got), wanted, case)
        except Exception as error:  # of whatever kind, it is listed with the others
            failed[case.name] = " ".join(str(error).split())
            continue
        passed[_name(case.model.graph.node[0])] += 1
    assert not failed, "\n".join(f"{name}: {difference}" for name, difference in failed.items())
    assert passed.total() >= 1750
    assert len(passed) >= 185


def test_excluded_cases_exist(cases: list[Case]) -> None:
    assert EXCLUDED.keys() <= {case.name for case in cases}


def test_types_are_found_without_data(cases: list[Case]) -> None:
    single = [case for case in cases if _is_typed(case)]
    assert len(single) >= 1200
    _check_types(single, _run_on_meta)


@pytest.mark.wide
def test_types_are_found_from_symbolic_sizes(cases: list[Case]) -> None:
    fullest: dict[str, Case] = {}  # the case of each operator that sets most attributes: torch's algebra is slow
    for case in sorted(filter(_is_typed, cases), key=lambda case: len(case.model.graph.node[0].attribute)):
        fullest[_name(case.model.graph.node[0])] = case
    assert len(fullest) >= 180
    _check_types(fullest.values(), _run_on_symbols)


def _check_types(cases: Iterable[Case], run: Run) -> None:
    """Hold the types that an operator's function gives without data against the standard's expected outputs."""
    failed: dict[str, str] = {}
    for case in cases:
        try:
            for wanted, got in zip(_wanted(case), _compute(case.model.graph, _feeds(case), run), strict=True):
                assert (dtype_of(got.dtype), tuple(map(_hint, got.shape))) == (DType.of(wanted.dtype), wanted.shape)
        except Exception as error:  # of whatever kind, it is listed with the others
            failed[case.name] = " ".join(str(error).split())
    assert not failed, "\n".join(f"{name}: {difference}" for name, difference in failed.items())


# -- which cases are ours


def _is_known(case: Case) -> bool:
    """Whether a case has only tensors of our types and operators that we have, as they are at the pinned opset."""
    inputs, outputs = case.data_sets[0]
    return all(map(_is_tensor, (*inputs, *outputs))) and all(map(_is_plain, case.model.graph.node))


def _is_typed(case: Case) -> bool:
    """Whether a case is one operator whose output's size doesn't depend on data."""
    nodes = case.model.graph.node
    if not _is_known(case) or len(nodes) != 1 or nodes[0].op_type == "Constant" or case.name in EXCLUDED:
        return False
    operator = operators()[_name(nodes[0])]
    return operator.from_data.keys() <= operator.host


def _is_tensor(data: Any) -> bool:
    return isinstance(data, onnx.TensorProto | np.ndarray | np.generic)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Whether a node is one of our operators as it is at the pinned opset, of tensors alone."""
    if node.op_type == "Constant":
        return True
    if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
        return False
    if _name(node) not in operators():
        return False
    schema = onnx.defs.get_schema(node.op_type, OPSET if not node.domain else 100, node.domain)
    return len(node.input) <= schema.max_input and all(
        attribute.name in schema.attributes for attribute in node.attribute
    )


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


# -- running them


def _feeds(case: Case) -> dict[str, torch.Tensor]:
    return {
        value.name: to_torch(_array(data))
        for value, data in zip(case.model.graph.input, case.data_sets[0][0], strict=True)
    }


def _wanted(case: Case) -> list[np.ndarray]:
    return [_array(data) for data in case.data_sets[0][1]]


def _array(data: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def _compute(graph: onnx.GraphProto, feeds: Mapping[str, torch.Tensor], run: Run | None = None) -> list[Any]:
    values: dict[str, Any] = {"": None, **feeds}
    for node in graph.node:
        attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
        if node.op_type == "Constant":
            values[node.output[0]] = to_torch(np.asarray(next(iter(attributes.values()))))
            continue
        operator = operators()[_name(node)]
        arguments = [
            values[name].reshape(-1).tolist() if index in operator.host and name else values[name]
            for index, name in enumerate(node.input)
        ]
        if operator.takes_outputs:
            attributes["outputs"] = len(node.output)
        if operator.takes_dtype:
            attributes["input_dtype"] = values[node.input[0]].dtype
        results = (run or _run)(operator, arguments, attributes)
        values.update(zip(node.output, results if isinstance(results, tuple) else (results,), strict=True))
    return [values[output.name] for output in graph.output]


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    match value:
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(value)
        case bytes():
            return value.decode()
        case float():
            return float(np.float32(value))
        case Iterable():
            return tuple(item.decode() if isinstance(item, bytes) else item for item in value)
        case _:
            return value


def _run(operator: Operator, arguments: list[Any], attributes: dict[str, Any]) -> Any:
    return operator.function(*arguments, **attributes)


def _run_on_meta(operator: Operator, arguments: list[Any], attributes: dict[str, Any]) -> Any:
    with torch.device("meta"), FastMeta():
        emptied = [item.to("meta") if isinstance(item, torch.Tensor) else item for item in arguments]
        return (operator.types or operator.function)(*emptied, **attributes)


def _run_on_symbols(operator: Operator, arguments: list[Any], attributes: dict[str, Any]) -> Any:
    """Run an operator with every size and every host number of two or more as a symbol that has it for a hint."""
    environment = ShapeEnv(specialize_zero_one=False)
    symbols: dict[int, Any] = {}

    def symbol(size: int) -> Any:
        if size < 2:
            return size
        if size not in symbols:
            source = ConstantSource(f"size_{size}")
            made = environment.create_symbol(size, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
            symbols[size] = environment.create_symintnode(made, hint=size, source=source)
        return symbols[size]

    def emptied(item: Any) -> Any:
        return (
            torch.empty([symbol(size) for size in item.shape], dtype=item.dtype)
            if isinstance(item, torch.Tensor)
            else item
        )

    with FakeTensorMode(shape_env=environment):
        return (operator.types or operator.function)(*map(emptied, arguments), **attributes)


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else size.node.hint


# -- comparing


def _compare(got: np.ndarray, wanted: np.ndarray, case: Case) -> None:
    """Fail if they differ. Half precision may be off by its last bits, and all by float32's around zero."""
    assert (DType.of(got.dtype), got.shape) == (DType.of(wanted.dtype), wanted.shape)
    if got.dtype == object:
        np.testing.assert_array_equal(got, wanted.astype(str).astype(object))
        return
    coarse = {DType.float16: 2**-9, DType.bfloat16: 2**-6}.get(DType.of(wanted.dtype), 0.0)
    if wanted.dtype.kind not in "biufc":  # of ml_dtypes
        got, wanted = got.astype(np.float32), wanted.astype(np.float32)
    defined = _defined(case)
    got, wanted = got[defined], wanted[defined]
    np.testing.assert_allclose(got, wanted, max(case.rtol, coarse), max(case.atol, 1e-6))


def _defined(case: Case) -> Any:
    """Which elements of a case's output the standard defines: not what a float beyond an integer type is cast to."""
    if case.model.graph.node[-1].op_type not in ("Cast", "CastLike"):
        return ...
    source, to = _array(case.data_sets[0][0][0]), DType.of(_wanted(case)[0].dtype)
    if not (DType.of(source.dtype).is_float and to.is_integer):
        return ...
    low, high = to.limits
    whole = np.trunc(source.astype(np.float64))
    return (whole >= low) & (whole <= high)
