"""Which type this machine multiplies fastest in: measured, and kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from planish.ir.cache_folder import VARIABLE
from planish.passes.precision import fast_precision


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    fast_precision.cache_clear()
    yield
    fast_precision.cache_clear()


has_instruction = pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16")),
    reason="this machine has no products of bfloat16",
)


@has_instruction
@pytest.mark.parametrize(("speed", "precision"), [(0.5, "float32"), (2.0, "bfloat16")])
def test_what_was_measured_decides_and_not_the_instruction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: float, precision: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    fast_precision()
    (kept,) = tmp_path.glob("precisions/*.json")
    assert json.loads(kept.read_text()) > 0
    kept.write_text(json.dumps(speed))
    fast_precision.cache_clear()
    assert fast_precision() == precision
