"""Which traits operators have, for analyses and passes to ask."""

from functools import cache

from .traits import Trait


def has_trait(operator: str, trait: Trait) -> bool:
    """Whether an operator has one of the traits; an unknown one has none."""
    from .ops.registry import operators  # brings torch, which listing the passes must not

    found = operators().get(operator)
    return found is not None and bool(found.traits & trait)


@cache
def operators_with(trait: Trait) -> frozenset[str]:
    """The operators of planish that have one of the traits."""
    from .ops.registry import operators

    return frozenset(name for name, operator in operators().items() if operator.traits & trait)
