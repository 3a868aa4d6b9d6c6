"""What errors say of operators and what these are given."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from .errors import ModelError
from .graph import Value


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
