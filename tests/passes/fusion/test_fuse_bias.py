"""Constant biases and scales of channels go into the operator before them; anything wider than channels does not."""

import pytest

CONV = """(%x: float32[1, 2, 2, 2]) {{
  const %w: float32[2, 2, 1, 1] = [1.0, 2.0, 3.0, 4.0]
  {constants}
  %conv: float32[1, 2, 2, 2] = Conv(%x, %w{bias}) @ "conv"
  %y: float32[1, 2, 2, 2] = {call} @ "change"
  return y = %y
}}"""


@pytest.mark.parametrize(
    ("constant", "call", "bias"),
    [
        ("const %c: float32[1, 2, 1, 1] = [0.5, -1.0]", "Add(%conv, %c)", "[0.5, -1.0]"),
        ("const %c: float32[2, 1, 1] = [0.5, -1.0]", "Add(%c, %conv)", "[0.5, -1.0]"),
        ("const %c: float32[] = 0.5", "Add(%conv, %c)", "[0.5, 0.5]"),
        ("const %c: float32[1] = [0.5]", "Add(%conv, %c)", "[0.5, 0.5]"),
    ],
)
def test_a_bias_into_a_convolution_without_one(becomes, constant: str, call: str, bias: str) -> None:
    after = f"""(%x: float32[1, 2, 2, 2]) {{
      const %w: float32[2, 2, 1, 1] = [1.0, 2.0, 3.0, 4.0]
      const %c_1: float32[2] = {bias}
      %conv_1: float32[1, 2, 2, 2] = Conv(%x, %w, %c_1) @ "conv"
      return y = %conv_1
    }}"""
    result = becomes("fuse-bias", CONV.format(constants=constant, bias="", call=call), after)
    assert result.counts == {"bias-into-conv": 1}


def test_a_bias_and_a_scale_into_a_convolution_with_a_bias(becomes) -> None:
    before = """(%x: float32[1, 2, 2, 2]) {
      const %w: float32[2, 2, 1, 1] = [1.0, 2.0, 3.0, 4.0]
      const %b: float32[2] = [1.0, 2.0]
      const %c: float32[2, 1, 1] = [0.5, -1.0]
      const %s: float32[1, 2, 1, 1] = [2.0, 0.5]
      %conv: float32[1, 2, 2, 2] = Conv(%x, %w, %b)
      %a: float32[1, 2, 2, 2] = Add(%conv, %c)
      %m: float32[1, 2, 2, 2] = Mul(%s, %a)
      return y = %m
    }"""
    after = """(%x: float32[1, 2, 2, 2]) {
      const %w_1: float32[2, 2, 1, 1] = [2.0, 4.0, 1.5, 2.0]
      const %s_1: float32[2] = [3.0, 0.5]
      %conv: float32[1, 2, 2, 2] = Conv(%x, %w_1, %s_1)
      return y = %conv
    }"""
    assert becomes("fuse-bias", before, after).counts == {"bias-into-conv": 1, "scale-into-conv": 1}


@pytest.mark.parametrize(
    ("call", "rule"), [("Add(%conv, %c)", "bias-into-conv"), ("Mul(%c, %conv)", "scale-into-conv")]
)
@pytest.mark.parametrize(
    "constant",
    [
        "const %c: float32[2] = [1.0, 2.0]",  # along the width
        "const %c: float32[2, 1] = [1.0, 2.0]",  # along the height
        "const %c: float32[1, 2, 2, 1] = [1, 2, 3, 4]",
        "%c: float32[1, 2, 2, 2] = Relu(%x)",
        "%c: float32[1, 2, 2, 2] = Conv(%x, %w)",
    ],
)
def test_what_is_no_constant_of_channels_stays_and_is_reported(stays, constant: str, call: str, rule: str) -> None:
    result = stays("fuse-bias", CONV.format(constants=constant, bias="", call=call))
    assert result.misses == (f"{rule} at change: the other operand is not a constant of channels",)


def test_a_constant_that_widens_the_batch_stays(stays) -> None:
    text = CONV.format(constants="const %c: float32[3, 1, 1, 1] = [1, 2, 3]", bias="", call="Add(%conv, %c)")
    stays("fuse-bias", text.replace("%y: float32[1,", "%y: float32[3,"))
    text = CONV.format(constants="const %c: float32[1, 1, 1, 1, 1] = [2]", bias="", call="Add(%conv, %c)")
    stays("fuse-bias", text.replace("%y: float32[1,", "%y: float32[1, 1,"))


def test_a_constant_that_widens_one_channel_stays(stays) -> None:
    stays(
        "fuse-bias",
        """(%x: float32[1, 2, 2, 2]) {
          const %w: float32[1, 2, 1, 1] = [1.0, 2.0]
          const %c: float32[3, 1, 1] = [1.0, 2.0, 3.0]
          %conv: float32[1, 1, 2, 2] = Conv(%x, %w)
          %y: float32[1, 3, 2, 2] = Add(%conv, %c)
          return y = %y
        }""",
    )


def test_a_bias_from_outside_stays_and_is_reported(stays) -> None:
    text = CONV.format(constants="const %c: float32[] = 1.0", bias=", %b", call="Add(%conv, %c)")
    result = stays("fuse-bias", text.replace("(%x: float32[1, 2, 2, 2])", "(%x: float32[1, 2, 2, 2], %b: float32[2])"))
    assert result.misses == ("bias-into-conv at change: its bias is not constant",)


def test_a_convolution_read_twice_stays(stays) -> None:
    text = CONV.format(constants="const %c: float32[] = 1.0", bias="", call="Add(%conv, %c)")
    stays("fuse-bias", text.replace("return y = %y", "return y = %y, conv = %conv"))


def test_a_quantized_weight_stays_quantized(stays) -> None:
    """The constant is what the weight is dequantized from, and the bias must not touch it."""
    stays(
        "fuse-bias",
        """(%x: float32[1, 2, 2]) {
          const %q: int8[2, 2, 1] = [1, 2, 3, 4]
          const %scale: float32[] = 0.5
          const %c: float32[] = 2.0
          %w: float32[2, 2, 1] = DequantizeLinear(%q, %scale)
          %conv: float32[1, 2, 2] = Conv(%x, %w)
          %y: float32[1, 2, 2] = Mul(%conv, %c)
          return y = %y
        }""",
    )


MATMUL = """(%x: {x}) {{
  const %w: float32[2, 3] = [1, 2, 3, 4, 5, 6]
  const %c: {c}
  %m: {y} = MatMul(%x, %w)
  %y: {y} = {call} @ "linear"
  return y = %y
}}"""


@pytest.mark.parametrize("constant", ["float32[3] = [1, 2, 3]", "float32[1] = [1]", "float32[] = 1.0"])
@pytest.mark.parametrize("call", ["Add(%m, %c)", "Add(%c, %m)"])
def test_a_product_and_its_bias_become_gemm(becomes, constant: str, call: str) -> None:
    after = f"""(%x: float32[batch, 2]) {{
      const %w: float32[2, 3] = [1, 2, 3, 4, 5, 6]
      const %c: {constant}
      %gemm: float32[batch, 3] = Gemm(%x, %w, %c) @ "linear"
      return y = %gemm
    }}"""
    before = MATMUL.format(x="float32[batch, 2]", c=constant, y="float32[batch, 3]", call=call)
    assert becomes("fuse-bias", before, after).counts == {"matmul-to-gemm": 1}


@pytest.mark.parametrize(
    ("x", "c", "y", "reason"),
    [
        ("float32[2, 2, 2]", "float32[3] = [1, 2, 3]", "float32[2, 2, 3]", "it is not the product of"),
        ("float32[2]", "float32[3] = [1, 2, 3]", "float32[3]", "it is not the product of"),
        ("float32[2, 2]", "float32[2, 3] = [1, 2, 3, 4, 5, 6]", "float32[2, 3]", "the other operand is not a constant"),
        ("float32[2, 2]", "float32[2, 1] = [1, 2]", "float32[2, 3]", "the other operand is not a constant"),
    ],
)
def test_other_products_stay_and_are_reported(stays, x: str, c: str, y: str, reason: str) -> None:
    result = stays("fuse-bias", MATMUL.format(x=x, c=c, y=y, call="Add(%m, %c)"))
    assert len(result.misses) == 1
    assert result.misses[0].startswith(f"matmul-to-gemm at linear: {reason}")


def test_a_product_of_integers_stays(stays) -> None:
    """ONNX has a Gemm of integers, but ONNX Runtime has none."""
    text = MATMUL.format(x="float32[2, 2]", c="float32[3] = [1, 2, 3]", y="float32[2, 3]", call="Add(%m, %c)")
    stays("fuse-bias", text.replace("float32", "int32"))
