"""How an operator is spelled out in simpler ones, by its name."""

from . import arithmetic, attention, branches, casts, integers, losses, moving, reductions
from .expansion import Expansion

EXPANSIONS: dict[str, Expansion] = {
    **arithmetic.EXPANSIONS,
    **attention.EXPANSIONS,
    **branches.EXPANSIONS,
    **casts.EXPANSIONS,
    **integers.EXPANSIONS,
    **losses.EXPANSIONS,
    **moving.EXPANSIONS,
    **reductions.EXPANSIONS,
}
