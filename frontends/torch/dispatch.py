"""Which lowering an operator takes, and what becomes of its faults."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.errors import ModelError, PlanishError
from .complexes import complex_lowering, is_complex
from .keep import keep
from .lowering import Lowering
from .table import LOWERINGS


def lower(op: Lowering, name: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The values that an operator's results become.

    Args:
        op: the lowering that inserts its nodes.
        name: the operator's name with its overload.
        arguments: the positional arguments: tensors as values, symbolic sizes as dimensions, everything else as it is.
        keywords: the keyword arguments, in the same form.

    Raises:
        ModelError: there is no way to express it; the operator and its module are named.
    """
    found = complex_lowering(name) if is_complex(op, (arguments, keywords)) else LOWERINGS.get(name)
    try:
        made = (found or keep)(op, *arguments, **keywords)
    except PlanishError:
        raise
    except Exception as error:  # arguments of a kind that the lowering doesn't know: a refusal like any other
        raise ModelError(f"{op.location}: {name} can't be lowered as it is called here: {error!r}") from error
    op.sizes.see(op.node.meta["val"], made)
    return made
