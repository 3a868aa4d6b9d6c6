"""How an operator is spelled out in simpler ones, by its name."""

from . import (
    arithmetic,
    attention,
    branches,
    casts,
    classical,
    integers,
    layers,
    losses,
    moving,
    recurrent,
    reductions,
    runtime,
    signal,
    states,
    trees,
)
from .expansion import Expansion

EXPANSIONS: dict[str, Expansion] = {
    **arithmetic.EXPANSIONS,
    **attention.EXPANSIONS,
    **branches.EXPANSIONS,
    **casts.EXPANSIONS,
    **classical.EXPANSIONS,
    **integers.EXPANSIONS,
    **layers.EXPANSIONS,
    **losses.EXPANSIONS,
    **moving.EXPANSIONS,
    **recurrent.EXPANSIONS,
    **reductions.EXPANSIONS,
    **runtime.EXPANSIONS,
    **signal.EXPANSIONS,
    **states.EXPANSIONS,
    **trees.EXPANSIONS,
}
