"""Numbers that don't depend on which tests ran before."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same numbers whatever ran before."""
    monkeypatch.setattr(request.module, "RNG", np.random.default_rng(1), raising=False)
