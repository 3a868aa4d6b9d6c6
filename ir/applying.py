"""What errors say of operators and what these are given."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import ModelError
from .graph import Attribute, Value
from .ops import Operator
from .ops.dtypes import torch_dtype


@contextmanager
def applying(operator: str, inputs: Sequence[Value | None]) -> Generator[None]:
    """Let whatever goes wrong meanwhile be said of an operator and what it is given.

    Raises:
        ModelError: as it was raised, or for another exception.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise inapplicable(operator, inputs, error) from error


def inapplicable(operator: str, inputs: Sequence[Value | None], error: Exception) -> ModelError:
    """The error that says what can't be done with an operator, and what it was given."""
    given = ", ".join("none" if value is None else str(value.type) for value in inputs)
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return ModelError(f"{operator}({given}) can't be applied: {reason[0]}")


def call_attributes(
    definition: Operator, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], outputs: int
) -> dict[str, Any]:
    """The keyword arguments with which an operator's function is called for a node."""
    keywords: dict[str, Any] = dict(attributes)
    if definition.takes_outputs:
        keywords["outputs"] = outputs
    if definition.takes_dtype and inputs[0] is not None:
        keywords["input_dtype"] = torch_dtype(inputs[0].dtype)
    return keywords
