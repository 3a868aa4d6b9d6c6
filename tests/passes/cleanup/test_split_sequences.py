"""Sequences whose parts are taken at constant places are splits; other sequences stay."""

import pytest

from planish.ir.unknown import size_called

HEAD = """(%x: float32[2, 6], %i: int64[]) {
  const %sizes: int64[2] = [2, 4]
  const %two: int64[] = 2
  const %four: int64[] = 4
  const %first: int64[] = 0
  const %last: int64[] = -1
"""


def test_parts_taken_at_constant_places(becomes) -> None:
    before = f"""{HEAD}
      %s: sequence(float32[2, {size_called("sizes", "part")}]) = SplitToSequence(%x, %sizes) {{axis = 1}}
      %a: float32[2, 2] = SequenceAt(%s, %first)
      %b: float32[2, 4] = SequenceAt(%s, %last)
      return a = %a, b = %b
    }}"""
    after = f"""{HEAD}
      const %constant: int64[2] = [2, 4]
      %split: float32[2, 2], %split_1: float32[2, 4] = Split(%x, %constant) {{axis = 1}}
      return a = %split, b = %split_1
    }}"""
    assert becomes("split-sequences", before, after).counts == {"split": 1}


def test_parts_of_one_size(becomes) -> None:
    before = f"""{HEAD}
      %s: sequence(float32[2, {size_called("four", "part")}]) = SplitToSequence(%x, %four) {{axis = 1}}
      %b: float32[2, 2] = SequenceAt(%s, %last)
      return b = %b
    }}"""
    after = f"""{HEAD}
      const %constant: int64[2] = [4, 2]
      %split: float32[2, 4], %split_1: float32[2, 2] = Split(%x, %constant) {{axis = 1}}
      return b = %split_1
    }}"""
    becomes("split-sequences", before, after)


@pytest.mark.parametrize(
    "rest",
    [
        f"%a: float32[2, {size_called('two', 'part')}] = SequenceAt(%s, %i) return a = %a",  # only data tells which
        "%a: float32[2, 2] = SequenceAt(%s, %first) return a = %a, s = %s",
        "%a: float32[2, 2] = SequenceAt(%s, %first) %n: int64[] = SequenceLength(%s) return a = %a, n = %n",
    ],
)
def test_a_sequence_that_is_read_otherwise_stays(stays, rest: str) -> None:
    stays(
        "split-sequences",
        (
            f"{HEAD} %s: sequence(float32[2, {size_called('two', 'part')}]) = SplitToSequence(%x, %two) {{axis = 1}} "
            f"{rest} }}"
        ),
    )
