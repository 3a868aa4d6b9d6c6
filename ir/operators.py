"""Which traits operators have, for analyses and passes to ask."""

from .traits import Trait


def has_trait(operator: str, trait: Trait) -> bool:
    """Whether an operator has one of the traits; an unknown one has none."""
    from .ops.registry import operators  # brings torch, which listing the passes must not

    found = operators().get(operator)
    return found is not None and bool(found.traits & trait)
