"""Targets of what tests run on the machine at hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from planish.targets import Target
from planish.targets.load import load_target


def targets(*names: str) -> Callable[..., Target]:
    """A fixture of targets; tests of those whose code this machine doesn't run are skipped."""

    @pytest.fixture(params=names)
    def target(request: pytest.FixtureRequest) -> Target:
        target = load_target(request.param)
        if not target.features <= load_target("native").features:
            pytest.skip(f"this machine is no {target.name}")
        return target

    return target


def without_saturation(target: Target) -> Target:
    """A target whose weights have no more bits than this machine's integer kernels add up without saturation."""
    here = load_target("native").int8
    assert target.int8 is not None
    bits = target.int8.weight_bits if here is None else min(here.weight_bits, target.int8.weight_bits)
    return replace(target, int8=replace(target.int8, weight_bits=bits))
