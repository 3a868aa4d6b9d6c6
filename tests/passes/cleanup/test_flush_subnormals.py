"""Subnormal weights become zeros where layers multiply by them, and nowhere else."""

import pytest

from planish.passes.pipeline import preset_passes

LAYER = """(%x: float32[2, 3]) {{
  const %w: float32[3, 2] = {weight}
  const %b: float32[2] = {bias}
  %y: float32[2, 2] = Gemm(%x, %w, %b)
  return y = %y
}}"""


def test_layers_lose_subnormal_weights_and_biases(becomes):
    before = LAYER.format(weight="[1.0, 1e-39, -1e-45, 2.0, 0.0, 3.0]", bias="[-1e-40, 1.5e-38]")
    after = LAYER.format(weight="[1.0, 0.0, 0.0, 2.0, 0.0, 3.0]", bias="[0.0, 1.5e-38]")
    assert becomes("flush-subnormals", before, after).counts == {"weight": 2}


@pytest.mark.parametrize(
    "text",
    [
        LAYER.format(weight="[1.0, 1.2e-38, -0.0, 2.0, 0.0, 3.0]", bias="[0.0, nan]"),
        LAYER.format(weight="[1e-39, 1e-39, 0.0, 0.0, 0.0, 1e-45]", bias="[1.0, 2.0]"),
        """(%x: float32[2]) {
  const %c: float32[2] = [1e-39, 1.0]
  %y: float32[2] = Div(%x, %c)
  return y = %y
}""",
        """(%x: float32[1, 2]) {
  const %c: float32[2, 2] = [1e-39, 1.0, 2.0, 3.0]
  %y: float32[1, 2] = MatMul(%x, %c)
  return y = %y, c = %c
}""",
    ],
    ids=["normal numbers", "nothing else", "a divisor", "an output"],
)
def test_others_stay(stays, text: str):
    stays("flush-subnormals", text)


def test_tied_table_stays_one(becomes):
    tied = """(%i: int64[2]) {{
  const %w: float32[4, 4] = {weight}
  %x: float32[2, 4] = Gather(%w, %i)
  %y: float32[2, 4] = MatMul(%x, %w)
  return y = %y
}}"""
    before, after = [0.5] * 15 + [1e-39], [0.5] * 15 + [0.0]
    becomes("flush-subnormals", tied.format(weight=before), tied.format(weight=after))


def test_fused_models_have_none():
    assert "flush-subnormals" in [step.name for step in preset_passes("fuse")]
