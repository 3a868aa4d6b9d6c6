"""Targets of what tests run on the machine at hand."""

from dataclasses import replace

from planish.targets import Target
from planish.targets.load import load_target


def without_saturation(target: Target) -> Target:
    """A target whose weights have no more bits than this machine's integer kernels add up without saturation."""
    here = load_target("native").int8
    assert target.int8 is not None
    bits = target.int8.weight_bits if here is None else min(here.weight_bits, target.int8.weight_bits)
    return replace(target, int8=replace(target.int8, weight_bits=bits))
