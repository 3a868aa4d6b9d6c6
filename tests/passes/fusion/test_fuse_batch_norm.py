"""Batch normalisation goes into the weights before it, where they are constant and nobody reads what is between."""

import numpy as np
import pytest

# scale 2 and 1, shift 1 and -1, mean 0.5 and 1, variance 3.75 and 0.75, epsilon 0.25: y = z + 0.5 and z - 2
NORM = """const %scale: float32[2] = [2.0, 1.0]
  const %shift: float32[2] = [1.0, -1.0]
  const %mean: float32[2] = [0.5, 1.0]
  const %variance: float32[2] = [3.75, 0.75]"""
CALL = "BatchNormalization(%c, %scale, %shift, %mean, %variance) {epsilon = 0.25}"


def test_into_a_convolution(becomes) -> None:
    before = f"""(%x: float32[batch, 1, 4, 4]) {{
      const %w: float32[2, 1, 1, 1] = [3.0, -1.0]
      const %b: float32[2] = [0.25, 1.0]
      {NORM.replace("[3.75, 0.75]", "[0.75, 3.75]")}
      %c: float32[batch, 2, 2, 2] = Conv(%x, %w, %b) {{strides = [2, 2]}} @ "stem.conv"
      %y: float32[batch, 2, 2, 2] = {CALL} @ "stem.norm"
      return y = %y
    }}"""
    # (3x + 0.25 - 0.5) * 2 + 1 and (-x + 1 - 1) * 0.5 - 1
    after = """(%x: float32[batch, 1, 4, 4]) {
      const %w_1: float32[2, 1, 1, 1] = [6.0, -0.5]
      const %shift_1: float32[2] = [0.5, -1.0]
      %conv: float32[batch, 2, 2, 2] = Conv(%x, %w_1, %shift_1) {strides = [2, 2]} @ "stem.conv"
      return y = %conv
    }"""
    assert becomes("fuse-batch-norm", before, after).counts == {"fold-into-conv": 1}


def test_into_a_convolution_without_bias(becomes) -> None:
    before = f"""(%x: float32[1, 2, 3]) {{
      const %w: float32[2, 1, 1] = [1.0, 1.0]
      {NORM}
      %c: float32[1, 2, 3] = Conv(%x, %w) {{group = 2}}
      %y: float32[1, 2, 3] = {CALL}
      return y = %y
    }}"""
    after = """(%x: float32[1, 2, 3]) {
      const %w_1: float32[2, 1, 1] = [1.0, 1.0]
      const %shift_1: float32[2] = [0.5, -2.0]
      %conv: float32[1, 2, 3] = Conv(%x, %w_1, %shift_1) {group = 2}
      return y = %conv
    }"""
    becomes("fuse-batch-norm", before, after)


def test_into_a_transposed_convolution(becomes) -> None:
    """The weight of a transposed convolution has the output channels second."""
    before = f"""(%x: float32[1, 1, 2]) {{
      const %w: float32[1, 2, 2] = [1.0, 2.0, 3.0, 4.0]
      {NORM.replace("[3.75, 0.75]", "[0.75, 3.75]")}
      %c: float32[1, 2, 4] = ConvTranspose(%x, %w) {{strides = [2]}}
      %y: float32[1, 2, 4] = {CALL}
      return y = %y
    }}"""
    after = """(%x: float32[1, 1, 2]) {
      const %w_1: float32[1, 2, 2] = [2.0, 4.0, 1.5, 2.0]
      const %shift_1: float32[2] = [0.0, -1.5]
      %convtranspose: float32[1, 2, 4] = ConvTranspose(%x, %w_1, %shift_1) {strides = [2]}
      return y = %convtranspose
    }"""
    becomes("fuse-batch-norm", before, after)


@pytest.mark.parametrize(
    ("transposed", "data", "folded"), [("", "1, 2, 3, 4", "2, 1, 6, 2"), (", transB = 1", "1, 3, 2, 4", "2, 6, 1, 2")]
)
def test_into_a_gemm(becomes, transposed: str, data: str, folded: str) -> None:
    before = f"""(%x: float32[3, 2]) {{
      const %w: float32[2, 2] = [{data}]
      const %b: float32[2] = [0.5, 1.0]
      {NORM.replace("[3.75, 0.75]", "[0.75, 3.75]")}
      %c: float32[3, 2] = Gemm(%x, %w, %b) {{alpha = 0.5{transposed}}}
      %y: float32[3, 2] = {CALL}
      return y = %y
    }}"""
    after = f"""(%x: float32[3, 2]) {{
      const %w_1: float32[2, 2] = [{folded}]
      const %shift_1: float32[2] = [1.0, -1.0]
      %gemm: float32[3, 2] = Gemm(%x, %w_1, %shift_1) {{alpha = 0.5{transposed}}}
      return y = %gemm
    }}"""
    becomes("fuse-batch-norm", before, after)


def test_random_statistics_at_width(graph_of, context, feeds_of) -> None:
    """Numbers without round values, held to the interpreter."""
    from planish.ir.interpreter import Interpreter
    from planish.passes.pipeline import parse_pipeline

    random = np.random.default_rng(3)
    arrays = {name: random.standard_normal(24).astype(np.float32) for name in ("b", "scale", "shift", "mean")}
    arrays |= {"w": random.standard_normal((24, 6, 3, 3)).astype(np.float32), "variance": np.abs(arrays["b"]) + 0.1}
    constants = "\n".join(f"const %{name}: float32{list(array.shape)}" for name, array in arrays.items())
    graph = graph_of(
        f"""(%x: float32[2, 6, 7, 7]) {{
          {constants}
          %c: float32[2, 24, 7, 7] = Conv(%x, %w, %b) {{pads = [1, 1, 1, 1]}}
          %y: float32[2, 24, 7, 7] = BatchNormalization(%c, %scale, %shift, %mean, %variance)
          return y = %y
        }}""",
        arrays,
    )
    feeds = feeds_of(graph)
    wanted = Interpreter(graph).run(feeds)["y"]
    (step,) = parse_pipeline("fuse-batch-norm")
    assert step.run(graph, context(graph)).counts == {"fold-into-conv": 1}
    np.testing.assert_allclose(Interpreter(graph).run(feeds)["y"], wanted, rtol=1e-4, atol=1e-4)


CONV = """(%x: float32[1, 2, 3]{inputs}) {{
  const %w: float32[2, 1, 1] = [1.0, 1.0]
  {norm}
  %c: float32[1, 2, 3] = Conv(%x, %w{bias}) {{group = 2}} @ "conv"
  %y: float32[1, 2, 3] = {call} @ "norm"
  return y = %y{returned}
}}"""


def test_a_convolution_that_is_returned_as_well_stays(stays) -> None:
    stays("fuse-batch-norm", CONV.format(inputs="", norm=NORM, bias="", call=CALL, returned=", c = %c"))


def test_a_convolution_that_is_read_twice_stays(stays) -> None:
    text = CONV.format(inputs="", norm=NORM, bias="", call=CALL, returned=", z = %z")
    stays("fuse-batch-norm", text.replace("return", "%z: float32[1, 2, 3] = Relu(%c) return"))


def test_weights_that_are_inputs_stay_and_are_reported(stays) -> None:
    text = CONV.format(inputs=", %bias: float32[2]", norm=NORM, bias=", %bias", call=CALL, returned="")
    assert stays("fuse-batch-norm", text).misses == ("fold-into-conv at norm: its bias is not constant",)
    norm = NORM.replace("const %scale: float32[2] = [2.0, 1.0]", "")
    text = CONV.format(inputs=", %scale: float32[2]", norm=norm, bias="", call=CALL, returned="")
    assert stays("fuse-batch-norm", text).misses == ("fold-into-conv at norm: its weights are not constant",)


def test_batch_statistics_stay_and_are_reported(stays) -> None:
    call = CALL.replace("0.25}", "0.25, training_mode = 1}")
    text = CONV.format(inputs="", norm=NORM, bias="", call=call, returned="")
    assert stays("fuse-batch-norm", text).misses == ("fold-into-conv at norm: it is in training mode",)


def test_running_statistics_stay(stays) -> None:
    call = f"{CALL.replace('0.25}', '0.25, training_mode = 1}')}"
    text = CONV.format(inputs="", norm=NORM, bias="", call=call, returned=", m = %m")
    stays("fuse-batch-norm", text.replace("%y: float32[1, 2, 3] =", "%y: float32[1, 2, 3], %m: float32[2] ="))


def test_a_normalisation_after_something_else_stays(stays) -> None:
    text = CONV.format(inputs="", norm=NORM, bias="", call=CALL, returned="")
    stays("fuse-batch-norm", text.replace("Conv(%x, %w) {group = 2}", "Relu(%x)"))


def test_groups_of_a_transposed_convolution_stay_and_are_reported(stays) -> None:
    text = CONV.format(inputs="", norm=NORM, bias="", call=CALL, returned="").replace("Conv(", "ConvTranspose(")
    result = stays("fuse-batch-norm", text)
    assert result.misses == ("fold-into-convtranspose at norm: a transposed convolution has groups",)


def test_a_scaled_bias_of_gemm_stays_and_is_reported(stays) -> None:
    text = f"""(%x: float32[3, 2]) {{
      const %w: float32[2, 2] = [1, 2, 3, 4]
      const %b: float32[2] = [0.5, 1.0]
      {NORM}
      %c: float32[3, 2] = Gemm(%x, %w, %b) {{beta = 0.5}}
      %y: float32[3, 2] = {CALL} @ "norm"
      return y = %y
    }}"""
    assert stays("fuse-batch-norm", text).misses == ("fold-into-gemm at norm: its bias is scaled",)


def test_two_convolutions_of_one_weight_get_one_each(becomes) -> None:
    before = f"""(%x: float32[1, 2, 3], %z: float32[1, 2, 3]) {{
      const %w: float32[2, 1, 1] = [1.0, 1.0]
      {NORM}
      %c: float32[1, 2, 3] = Conv(%x, %w) {{group = 2}}
      %d: float32[1, 2, 3] = Conv(%z, %w) {{group = 2}}
      %y: float32[1, 2, 3] = {CALL}
      return y = %y, d = %d
    }}"""
    after = """(%x: float32[1, 2, 3], %z: float32[1, 2, 3]) {
      const %w: float32[2, 1, 1] = [1.0, 1.0]
      const %w_1: float32[2, 1, 1] = [1.0, 1.0]
      const %shift_1: float32[2] = [0.5, -2.0]
      %d: float32[1, 2, 3] = Conv(%z, %w) {group = 2}
      %conv: float32[1, 2, 3] = Conv(%x, %w_1, %shift_1) {group = 2}
      return y = %conv, d = %d
    }"""
    becomes("fuse-batch-norm", before, after)
