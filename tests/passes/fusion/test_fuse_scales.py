"""Two scales of a product, or in a row, are one; what is no number, or scales integers, stays."""

import pytest

TEXT = """(%a: float32[2, 3, 4], %b: float32[2, 4, 5]) {
  const %s: float32[] = 0.5
  const %t: float32[1] = [0.25]
  %p: float32[2, 3, 4] = Mul(%a, %s)
  %q: float32[2, 4, 5] = Mul(%t, %b)
  %y: float32[2, 3, 5] = MatMul(%p, %q)
  return y = %y
}"""


def test_both_operands_scaled(becomes) -> None:
    after = """(%a: float32[2, 3, 4], %b: float32[2, 4, 5]) {
      const %s_1: float32[] = 0.125
      %mul: float32[2, 3, 4] = Mul(%a, %s_1)
      %matmul: float32[2, 3, 5] = MatMul(%mul, %b)
      return y = %matmul
    }"""
    assert becomes("fuse-scales", TEXT, after).counts == {"scale-once": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("const %t: float32[1] = [0.25]", "const %t: float32[5] = [0.25, 0.5, 1.0, 2.0, 4.0]"),
        ("float32", "int64"),
        ("return y = %y", "return y = %y, q = %q"),
    ],
)
def test_another_scale_stays(stays, old: str, new: str) -> None:
    text = TEXT.replace(old, new)
    if new == "int64":
        text = text.replace("= 0.5", "= 2").replace("[0.25]", "[3]")
    stays("fuse-scales", text)


ROW = """(%x: float32[2, 3]) {
  const %c: float32[] = 0.5
  const %d: float32[3] = [2.0, 4.0, 0.0]
  %p: float32[2, 3] = Mul(%c, %x)
  %y: float32[2, 3] = Mul(%p, %d)
  return y = %y
}"""


def test_scales_in_a_row(becomes) -> None:
    after = """(%x: float32[2, 3]) {
      const %c_1: float32[3] = [1.0, 2.0, 0.0]
      %mul: float32[2, 3] = Mul(%x, %c_1)
      return y = %mul
    }"""
    assert becomes("fuse-scales", ROW, after).counts == {"scales-in-a-row": 1}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("const %c: float32[] = 0.5", "const %c: float32[2, 1] = [0.5, 1.0]"),
        ("[2.0, 4.0, 0.0]", "[2.0, 1e-38, 0.0]"),
        ("0.5", "1e38"),
        ("return y = %y", "return y = %y, p = %p"),
    ],
)
def test_scales_that_are_larger_together_or_are_both_needed_stay(stays, old: str, new: str) -> None:
    stays("fuse-scales", ROW.replace(old, new))


def test_scales_of_integers_stay(stays) -> None:
    text = ROW.replace("float32", "int64").replace("= 0.5", "= 2").replace("[2.0, 4.0, 0.0]", "[2, 4, 0]")
    stays("fuse-scales", text)
