"""Clean-up goes into the branches and bodies inside nodes, and leaves a branch something of its own to return."""

import pytest

from planish.ir.unknown import size_called

BRANCH = """(%x: float32[4, 6], %p: bool[]) {{
  %o: float32[4, 6] = Neg(%x)
  %y: float32[4, 6] = If(%p) {{else_branch = graph "else"() {{
    %e: float32[4, 6] = Exp(%x)
    return y = %e
  }}, then_branch = graph "then"() {{
    {}
  }}}}
  %z: float32[4, 6] = Add(%y, %o)
  return z = %z
}}"""

INSIDE = {
    "cse": (
        """%a: float32[4, 6] = Relu(%x)
        %b: float32[4, 6] = Relu(%x)
        %r: float32[4, 6] = Sub(%a, %b)
        return y = %r""",
        """%a: float32[4, 6] = Relu(%x)
        %r: float32[4, 6] = Sub(%a, %a)
        return y = %r""",
    ),
    "fold-constants": (
        """const %two: float32[] = 2
        %four: float32[] = Mul(%two, %two)
        %r: float32[4, 6] = Mul(%x, %four)
        return y = %r""",
        """const %two_1: float32[] = 4
        %r: float32[4, 6] = Mul(%x, %two_1)
        return y = %r""",
    ),
    "remove-identities": (
        """%a: float32[4, 6] = Identity(%x)
        %r: float32[4, 6] = Relu(%a)
        return y = %r""",
        """%r: float32[4, 6] = Relu(%x)
        return y = %r""",
    ),
    "simplify-shapes": (
        """%s: int64[2] = Shape(%x)
        %r: float32[4, 6] = Reshape(%o, %s)
        return y = %r""",
        """const %s_1: int64[2] = [4, 6]
        %s: int64[2] = Shape(%x)
        %r: float32[4, 6] = Reshape(%o, %s_1)
        return y = %r""",
    ),
    "split-sequences": (
        f"""const %parts: int64[2] = [2, 2]
        const %zero: int64[] = 0
        %s: sequence(float32[{size_called("parts", "part")}, 6]) = SplitToSequence(%x, %parts) {{axis = 0}}
        %a: float32[2, 6] = SequenceAt(%s, %zero)
        %r: float32[4, 6] = Concat(%a, %a) {{axis = 0}}
        return y = %r""",
        """const %parts: int64[2] = [2, 2]
        const %zero: int64[] = 0
        const %constant: int64[2] = [2, 2]
        %split: float32[2, 6], %split_1: float32[2, 6] = Split(%x, %constant) {axis = 0}
        %r: float32[4, 6] = Concat(%split, %split) {axis = 0}
        return y = %r""",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_branch_is_cleaned_up_as_well(name: str, becomes) -> None:
    before, after = INSIDE[name]
    becomes(name, BRANCH.format(before), BRANCH.format(after))


@pytest.mark.parametrize("source", ["x", "o"])
def test_a_branch_returns_nothing_from_around_it(source: str, stays) -> None:
    stays("remove-identities", BRANCH.format(f"%r: float32[4, 6] = Identity(%{source})\n return y = %r"))
