"""Type inference: an operator's own torch function, run on tensors without data.

Static shapes run on meta tensors. Symbolic ones run on fake tensors whose sizes are torch's symbolic ints, and come
back as expressions. What an operator reads on the host (a shape, the bounds of a slice) is followed to where it was
made, so that a `Reshape` by `Concat(Shape(x)[0:1], [-1, 64])` has the type that one expects. Where it was made from
data, the operator's declaration says which sizes are unknown (see `ops.from_data`), and these get symbols of their own.

The symbols of inputs are sizes that the model's author had in mind: they are taken not to be 1, to agree where they
meet, and to be long enough. A size that only data tells may be anything, so what is found for one is tried at many
sizes, and given up for a new symbol where it doesn't hold (see `trials`).
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from . import shape_values
from .applying import applying, call_attributes, inapplicable
from .containers import infer_container
from .contents import contents
from .dims import Dim, evaluate
from .errors import ModelError
from .graph import Attribute, Constant, Value
from .kept import keep
from .limits import MOST_OPEN_AXES, MOST_OPERANDS
from .ops import Operator, named_operator
from .ops.aten import aten_operator
from .ops.dtypes import dtype_of, torch_dtype
from .ops.from_data import RankFromData, numbered
from .ops.meta_kernels import FastMeta
from .sample_sizes import LARGEST_BOUND, UNBOUNDED, Run, are_telling, holds, plain_shape, plain_sizes, sample_sizes
from .types import DType, TensorType
from .unknown import (
    UNKNOWN,
    identity,
    is_expression_of_data,
    is_from_data,
    is_of_data,
    is_unknown,
    size_called,
    size_of_element,
    size_of_result,
)
from .unranked import infer_unranked


def find_operator(name: str) -> Operator:
    """The operator of a name.

    Raises:
        ModelError: nobody knows it; the nearest name is suggested.
        UsageError: the package that has its domain can't be imported; it is named.
    """
    if name.startswith("aten::") and (kept := aten_operator(name)):
        return kept
    return named_operator(name)


def infer(
    operator: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], outputs: int = 1
) -> list[TensorType]:
    """The types of a node's outputs.

    Raises:
        ModelError: the operator is unknown, or its inputs don't fit together.
    """
    definition = find_operator(operator)
    _check_bounds(operator, inputs, outputs)
    with applying(operator, inputs):
        types = infer_container(operator, inputs, attributes, outputs)
        if types is not None:
            return types
        if not all(value is None or value.type.is_ranked for value in inputs):
            return infer_unranked(operator, inputs, attributes, outputs)
    inference = _Inference(definition, inputs, attributes, outputs)
    try:
        return inference.types()
    except RankFromData:
        with applying(operator, inputs):
            return infer_unranked(operator, inputs, attributes, outputs)
    except Exception as error:
        raise inapplicable(operator, inputs, error) from error


def _check_bounds(operator: str, inputs: Sequence[Value | None], outputs: int) -> None:
    if max(len(inputs), outputs) > MOST_OPERANDS:
        raise ModelError(
            f"{operator} has {len(inputs):,} inputs and {outputs:,} outputs; {MOST_OPERANDS:,} are the most"
        )
    for value in inputs:
        dims = value.type.dims if value is not None else None
        if dims is not None and len(dims) > MOST_OPEN_AXES < (count := sum(isinstance(dim, str) for dim in dims)):
            raise ModelError(f"{value} has {count} axes of open sizes; {MOST_OPEN_AXES} are the most")


_FOUND: dict[Hashable, tuple[TensorType, ...]] = {}
"""Types by what they depend on: the layers of a network repeat one another."""
_NUMBER = re.compile(r"\d+")
_SMALL = 1024
"""Bytes of a row of sizes that is compared."""


@dataclass(frozen=True, slots=True)
class _Result:
    """An output of an application: the sizes that came out, and symbols for those that are declared unknown."""

    dtype: DType
    shape: tuple[Any, ...]
    unknown: Mapping[int, Dim]

    @property
    def type(self) -> TensorType:
        return TensorType(self.dtype, tuple(self.unknown.get(axis, size) for axis, size in enumerate(self.shape)))


class _Inference:
    """One application of an operator to values of which only types are known."""

    def __init__(
        self,
        definition: Operator,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Attribute],
        outputs: int,
    ) -> None:
        self._definition = definition
        self._inputs = inputs
        self._attributes = attributes
        self._outputs = outputs
        self._symbols: set[str] = set()
        for index, value in enumerate(inputs):
            if value is not None:
                self._symbols |= value.type.symbols
            if value is not None and index in definition.host:
                self._symbols |= shape_values.symbols(value)
        self._is_of_data = any(map(is_from_data, self._symbols))

    def types(self) -> list[TensorType]:
        """The types of the outputs.

        Raises:
            RankFromData: an output's number of axes depends on data.
            Exception: whatever torch raises where the inputs don't fit together.
        """
        key = self._key()
        if key in _FOUND:
            return list(_FOUND[key])
        types = self._tried() if self._is_of_data else [result.type for result in self._symbolic()]
        if key is not None:
            keep(_FOUND, key, tuple(types))
        return types

    def _key(self) -> Hashable | None:
        """What the types depend on; None where that is more than a few bytes.

        Where sizes depend on data, they are called after the inputs, whose names and origins are part of it then.
        """
        definition = self._definition
        if not all(isinstance(value, int | float | str | tuple) for value in self._attributes.values()):
            return None
        read = {index: it for index, it in enumerate(self._inputs) if index in definition.host and it is not None}
        decided = {index for index in definition.from_data if not isinstance(read.get(index), Constant)}
        is_named = self._is_of_data or any(index < len(self._inputs) for index in decided)
        rows = tuple([_row(value, is_named=is_named) for value in read.values()])
        if None in rows:
            return None
        return (
            definition.name,
            definition.function,
            tuple([None if value is None else value.type for value in self._inputs]),
            rows,
            tuple(map(self._origin, range(len(self._inputs)))) if is_named else (),
            tuple(sorted(self._attributes.items())),
            self._outputs,
        )

    def _origin(self, index: int) -> Hashable:
        """What the name of a size that an input decides depends on."""
        value, definition = self._inputs[index], self._definition
        if value is None:
            return None
        is_read = index in definition.host or index in definition.from_data
        return identity(value), shape_values.signature(value) if is_read else None

    def _tried(self) -> list[TensorType]:
        """The types where sizes depend on data."""
        found: list[_Result] | None = None
        reason: Exception | None = None
        try:
            found = self._symbolic()
        except RankFromData:
            raise
        except Exception as error:
            reason = error
        runs = self._runs(together=found is None)
        if not runs:
            raise reason or ModelError("it fits at none of many sizes that were tried")
        return [
            self._settled(found[index] if found else None, [(sizes, results[index]) for sizes, results in runs], index)
            for index in range(len(runs[0][1]))
        ]

    def _symbolic(self) -> list[_Result]:
        """The outputs in terms of the symbols; torch's questions are answered with one row of sizes, or the next."""
        if not self._symbols:
            with torch.device("meta"), FastMeta():
                return self._apply(int)
        if not self._is_of_data and (plain := self._plain()):
            return plain
        from .scope import SIZES, scope, symbols_kept  # as above

        reason: Exception | None = None
        for attempt in range(len(SIZES)):
            within = scope(tuple(sorted(self._symbols)), attempt)
            try:
                with symbols_kept(within), within.mode:
                    results = self._apply(within.size)
                return [replace(result, shape=tuple(map(within.dim, result.shape))) for result in results]
            except Exception as error:
                reason = reason or error
        assert reason is not None
        raise reason

    def _plain(self) -> list[_Result] | None:
        """The outputs where all their sizes are plain."""
        bounds = self._bounds()
        if bounds is None or any(LARGEST_BOUND < bound < UNBOUNDED for bound in bounds):
            return None
        rows = [dict.fromkeys(self._symbols, 1), *plain_sizes(self._symbols)]  # at 1, a window may not fit
        runs = list(self._runs_at(rows, {}, is_loose=False))[1:]
        if len(runs) < len(rows) - 1:
            return None
        given = [dim for value in self._inputs if value is not None for dim in value.shape if isinstance(dim, str)]
        found: list[_Result] = []
        for index, result in enumerate(runs[0][1]):
            shape = plain_shape([(sizes, results[index].shape) for sizes, results in runs], given)
            if shape is None:
                return None
            found.append(replace(result, shape=shape))
        return found

    def _runs(self, *, together: bool) -> list[tuple[Mapping[str, int], list[_Result]]]:
        """The results at the sizes that are tried, except at those that don't fit.

        A sum or product of sizes is hardly ever the number that it must agree with. Where no sizes fit, such
        expressions are taken for any number, and elements of which data tells for unknown ones.
        """
        dims = [dim for value in self._inputs if value is not None for dim in value.shape]
        numbers = [*(dim for dim in dims if isinstance(dim, int)), *self._elements()]
        for is_loose in (False, True) if together else (False,):
            loose = {dim: size_called("any", dim) for dim in dims if is_loose and is_expression_of_data(dim)}
            tried = sample_sizes(self._symbols.union(loose.values()), numbers, together=together)
            if runs := list(self._runs_at(tried, loose, is_loose=is_loose)):
                return runs
        return []

    def _elements(self) -> list[int]:
        """The elements that are read on the host, as far as they are numbers."""
        rows = [
            self._argument(lambda dim: dim if isinstance(dim, int) else UNKNOWN, index, value)
            for index, value in enumerate(self._inputs)
            if index in self._definition.host
        ]
        return [element for row in rows if isinstance(row, list) for element in row if isinstance(element, int)]

    def _bounds(self) -> list[int] | None:
        """The numbers that sizes may be compared with; None where they aren't known."""
        dims: list[Dim] = [*self._elements()]
        for index, value in enumerate(self._inputs):
            if value is None:
                continue
            dims += [dim for dim in value.shape if isinstance(dim, str)]
            if index in self._definition.host and not isinstance(value, Constant):
                found = contents(value)
                if found is None:
                    return None
                dims += found
        return [int(number) for dim in dims for number in _NUMBER.findall(str(dim))]

    def _runs_at(
        self, rows: Iterable[Mapping[str, int]], loose: Mapping[Dim, str], *, is_loose: bool
    ) -> Iterator[tuple[Mapping[str, int], list[_Result]]]:
        """The results at rows of sizes.

        Args:
            rows: the rows, each of which gives every symbol a size.
            loose: symbols for dimensions that are expressions.
            is_loose: whether elements that are read on the host are unknown if data tells them.
        """
        for sizes in rows:
            size = lambda dim, sizes=sizes: evaluate(loose.get(dim, dim), sizes)  # noqa: E731 -- with this row of sizes
            element = lambda dim, size=size: UNKNOWN if is_loose and is_of_data(dim) else size(dim)  # noqa: E731
            try:
                with torch.device("meta"), FastMeta():
                    yield sizes, self._apply(size, element)
            except RankFromData:
                raise
            except Exception:  # noqa: S112 -- these sizes don't fit together; others will
                continue

    def _settled(
        self, found: _Result | None, runs: Sequence[tuple[Mapping[str, int], _Result]], output: int
    ) -> TensorType:
        """The type of an output: sizes that hold in every run, and new symbols for those that don't."""
        first = found or runs[0][1]
        if any(len(run.shape) != len(first.shape) for _, run in runs):
            raise RankFromData
        shapes: list[Run] = [(sizes, run.shape) for sizes, run in runs]
        telling = are_telling(shapes)
        given = dict.fromkeys(dim for value in self._inputs if value is not None for dim in value.shape)
        dims: list[Dim] = []
        for axis, size in enumerate(first.shape):
            guesses = [size] if found else [*(dim for dim in given if isinstance(dim, str)), size] if telling else []
            unknown = [run.unknown[axis] for run in (first, *(run for _, run in runs)) if axis in run.unknown]
            right = unknown[:1] or [dim for dim in dict.fromkeys(guesses) if holds(dim, axis, shapes)]
            is_doubtful = len(right) > 1 and is_expression_of_data(right[0])  # it may fit at one number alone
            dims.append(right[0] if right and not is_doubtful else self._unnamed(output, axis))
        return TensorType(first.dtype, tuple(dims))

    def _apply(self, size: Callable[[Dim], Any], element: Callable[[Dim], Any] | None = None) -> list[_Result]:
        """Run the function without data, on tensors of sizes that the caller knows.

        Args:
            size: returns the size of a dimension.
            element: returns the value of an element that is read on the host; by default, `size` does.
        """
        definition = self._definition
        arguments = [
            self._argument(element if element and index in definition.host else size, index, value)
            for index, value in enumerate(self._inputs)
        ]
        keywords = call_attributes(definition, self._inputs, self._attributes, self._outputs)
        named = {
            **dict.fromkeys(definition.inputs),
            **dict(zip(definition.inputs, arguments, strict=False)),
            **definition.defaults,
            **keywords,
        }
        rules = {index: rule for index, rule in definition.from_data.items() if self._is_from_data(index, arguments)}
        axes = {index: rule.axes(definition.inputs[index], named) for index, rule in rules.items()}
        for index in definition.host.intersection(rules):
            arguments[index] = rules[index].row(definition.inputs[index], named)
        self._check_known(arguments)
        with torch.no_grad():
            results = (definition.types or definition.function)(*arguments, **keywords)
        results = (results if isinstance(results, tuple) else (results,))[: self._outputs]
        unknown: list[dict[int, Dim]] = [{} for _ in results]
        for index, found in axes.items():
            for sizes, numbers in zip(unknown, numbered(found, [result.ndim for result in results]), strict=False):
                sizes.update({axis: self._symbol(index, number) for axis, number in numbers.items()})
        return [
            _Result(dtype_of(result.dtype), tuple(result.shape), sizes)
            for result, sizes in zip(results, unknown, strict=True)
        ]

    def _argument(self, size: Callable[[Dim], Any], index: int, value: Value | None) -> Any:
        if value is None:
            return None
        if index not in self._definition.host:
            return torch.empty([size(dim) for dim in value.shape], dtype=torch_dtype(value.dtype))
        if isinstance(value, Constant):
            return value.data.reshape(-1).tolist()
        elements = shape_values.elements(value, size)
        return UNKNOWN if elements is None else list(elements.reshape(-1))

    def _is_from_data(self, index: int, arguments: Sequence[Any]) -> bool:
        """Whether an input is there, and known no sooner than the operator runs."""
        if index >= len(arguments) or arguments[index] is None:
            return False
        return index not in self._definition.host or is_unknown(arguments[index])

    def _check_known(self, arguments: Sequence[Any]) -> None:
        for value, argument in zip(self._inputs, arguments, strict=True):
            if value is not None and is_unknown(argument):
                raise ModelError(
                    f"{self._definition.name} needs %{value.name} at compile time, but it is computed from data"
                )

    def _symbol(self, index: int, number: int) -> Dim:
        """The symbol of a size that an input decides."""
        value = self._inputs[index]
        assert value is not None
        if self._definition.from_data[index].is_size:
            known = contents(value)
            return known[number] if known else size_of_element(value, number)
        return size_of_result(self._definition.name, self._inputs, self._attributes, value.name, number)

    def _unnamed(self, output: int, axis: int) -> Dim:
        """The symbol of a size that follows in no known way from those of the inputs."""
        return size_of_result(self._definition.name, self._inputs, self._attributes, f"output {output}", axis)


def _row(value: Value, *, is_named: bool) -> Hashable | None:
    """What is read on the host, as it is compared; None where it is unknown or large."""
    if isinstance(value, Constant):
        return value.data.tobytes() if value.data.nbytes <= _SMALL else None
    return () if is_named else contents(value)
