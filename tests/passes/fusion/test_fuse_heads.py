"""Attention takes heads apart by itself, wherever the sequence is; what a batch has of its own keeps it from that."""

import pytest


def test_attention_takes_heads_apart_itself(becomes) -> None:
    before = """(%q: float32[2, 4, 24], %k: float32[2, 5, 8], %v: float32[2, 5, 8]) {
      const %qs: int64[4] = [2, 4, 6, 4]
      const %ks: int64[4] = [2, 5, 2, 4]
      const %ys: int64[3] = [2, 4, 24]
      %q4: float32[2, 4, 6, 4] = Reshape(%q, %qs)
      %k4: float32[2, 5, 2, 4] = Reshape(%k, %ks)
      %v4: float32[2, 5, 2, 4] = Reshape(%v, %ks)
      %qt: float32[2, 6, 4, 4] = Transpose(%q4) {perm = [0, 2, 1, 3]}
      %kt: float32[2, 2, 5, 4] = Transpose(%k4) {perm = [0, 2, 1, 3]}
      %vt: float32[2, 2, 5, 4] = Transpose(%v4) {perm = [0, 2, 1, 3]}
      %a: float32[2, 6, 4, 4] = Attention(%qt, %kt, %vt) {is_causal = 1}
      %t: float32[2, 4, 6, 4] = Transpose(%a) {perm = [0, 2, 1, 3]}
      %y: float32[2, 4, 24] = Reshape(%t, %ys)
      return y = %y
    }"""
    after = """(%q: float32[2, 4, 24], %k: float32[2, 5, 8], %v: float32[2, 5, 8]) {
      %attention: float32[2, 4, 24] = Attention(%q, %k, %v) {is_causal = 1, kv_num_heads = 2, q_num_heads = 6}
      return y = %attention
    }"""
    assert becomes("fuse-heads", before, after).counts == {"heads": 1}


def test_queries_keys_and_values_of_one_product(becomes) -> None:
    before = """(%x: float32[2, 5, 24]) {
      const %heads: int64[5] = [2, 5, 3, 2, 4]
      const %zero: int64[] = 0
      const %one: int64[] = 1
      const %two: int64[] = 2
      const %hidden: int64[3] = [2, 5, 8]
      %r: float32[2, 5, 3, 2, 4] = Reshape(%x, %heads)
      %p: float32[3, 2, 2, 5, 4] = Transpose(%r) {perm = [2, 0, 3, 1, 4]}
      %q: float32[2, 2, 5, 4] = Gather(%p, %zero) {axis = 0}
      %k: float32[2, 2, 5, 4] = Gather(%p, %one) {axis = 0}
      %v: float32[2, 2, 5, 4] = Gather(%p, %two) {axis = 0}
      %a: float32[2, 2, 5, 4] = Attention(%q, %k, %v)
      %t: float32[2, 5, 2, 4] = Transpose(%a) {perm = [0, 2, 1, 3]}
      %y: float32[2, 5, 8] = Reshape(%t, %hidden)
      return y = %y
    }"""
    after = """(%x: float32[2, 5, 24]) {
      %split: float32[2, 5, 8], %split_1: float32[2, 5, 8], %split_2: float32[2, 5, 8] =
        Split(%x) {axis = -1, num_outputs = 3}
      %attention: float32[2, 5, 8] = Attention(%split, %split_1, %split_2) {kv_num_heads = 2, q_num_heads = 2}
      return y = %attention
    }"""
    assert becomes("fuse-heads", before, after).counts == {"packed-heads": 1}


def by_sequence(batch: str, mask: str) -> str:
    """Attention of three heads of four, as torch's MultiheadAttention writes it."""
    parts, heads = f"float32[5, {batch}, 12]", f"float32[{batch}, 3, 5, 4]"
    taken_apart = "".join(
        f"""%{x}4: float32[5, {batch}, 3, 4] = Reshape(%{x}, %heads)
      %{x}t: {heads} = Transpose(%{x}4) {{perm = [1, 2, 0, 3]}}
      """
        for x in "qkv"
    )
    return f"""(%q: {parts}, %k: {parts}, %v: {parts}{f", %m: {mask}" if mask else ""}) {{
      const %heads: int64[4] = [5, {"-1" if batch == "batch" else batch}, 3, 4]
      const %rows: int64[2] = [-1, 12]
      {taken_apart}%a: {heads} = Attention(%qt, %kt, %vt{", %m" if mask else ""})
      %t: float32[5, {batch}, 3, 4] = Transpose(%a) {{perm = [2, 0, 1, 3]}}
      %y: float32[{"5 * batch" if batch == "batch" else 5 * int(batch)}, 12] = Reshape(%t, %rows)
      return y = %y
    }}"""


@pytest.mark.parametrize(
    ("batch", "mask"), [(1, ""), (2, ""), (2, "float32[5, 5]"), (2, "bool[1, 1, 5, 5]"), (1, "float32[1, 3, 5, 5]")]
)
def test_the_heads_of_a_batch_after_the_sequence_lie_side_by_side(becomes, batch: int, mask: str) -> None:
    parts, flat = f"float32[5, {batch}, 12]", f"float32[1, 5, {12 * batch}]"
    names = ("constant", "constant_1", "constant_2")
    heads = f"kv_num_heads = {3 * batch}, q_num_heads = {3 * batch}"
    after = f"""(%q: {parts}, %k: {parts}, %v: {parts}{f", %m: {mask}" if mask else ""}) {{
      {"".join(f"const %{name}: int64[3] = [1, 5, {12 * batch}]{chr(10)}" for name in names)}
      const %constant_3: int64[2] = [{5 * batch}, 12]
      %reshape: {flat} = Reshape(%q, %constant)
      %reshape_1: {flat} = Reshape(%k, %constant_1)
      %reshape_2: {flat} = Reshape(%v, %constant_2)
      %attention: {flat} = Attention(%reshape, %reshape_1, %reshape_2{", %m" if mask else ""}) {{{heads}}}
      %reshape_3: float32[{5 * batch}, 12] = Reshape(%attention, %constant_3)
      return y = %reshape_3
    }}"""
    assert becomes("fuse-heads", by_sequence(str(batch), mask), after).counts == {"heads": 1}


@pytest.mark.parametrize(("batch", "mask"), [("batch", ""), ("2", "float32[2, 1, 1, 5]"), ("2", "bool[1, 3, 5, 5]")])
def test_but_not_of_an_unknown_batch_or_one_with_masks_of_its_own(stays, batch: str, mask: str) -> None:
    (miss,) = stays("fuse-heads", by_sequence(batch, mask)).misses
    assert "the batch's size isn't known, or it has masks of its own" in miss


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_of_one_product_are_split(becomes, batch: int) -> None:
    wide, part, flat = (f"float32[{sizes}]" for sizes in (f"5, {batch}, 24", f"5, {batch}, 8", f"1, 5, {8 * batch}"))
    heads = f"kv_num_heads = {2 * batch}, q_num_heads = {2 * batch}"
    parts = "".join(
        f"""%{x}: {part} = Gather(%r, %{index}) {{axis = 2}}
      %{x}f: {flat} = Reshape(%{x}, %flat)
      """
        for x, index in zip("qkv", ("zero", "one", "two"), strict=True)
    )
    before = f"""(%x: {wide}) {{
      const %zero: int64[] = 0
      const %one: int64[] = 1
      const %two: int64[] = 2
      const %apart: int64[4] = [5, {batch}, 3, 8]
      const %flat: int64[3] = [1, 5, {8 * batch}]
      %r: float32[5, {batch}, 3, 8] = Reshape(%x, %apart)
      {parts}%a: {flat} = Attention(%qf, %kf, %vf) {{{heads}}}
      return a = %a
    }}"""
    split = "%split: {0}, %split_1: {0}, %split_2: {0} = Split({1}) {{axis = -1, num_outputs = 3}}"
    if batch == 1:
        after = f"""(%x: {wide}) {{
          const %constant: int64[3] = [1, 5, 24]
          %reshape: float32[1, 5, 24] = Reshape(%x, %constant)
          {split.format(flat, "%reshape")}
          %attention: {flat} = Attention(%split, %split_1, %split_2) {{{heads}}}
          return a = %attention
        }}"""
    else:
        after = f"""(%x: {wide}) {{
          const %constant: int64[3] = [1, 5, 16]
          const %constant_1: int64[3] = [1, 5, 16]
          const %constant_2: int64[3] = [1, 5, 16]
          {split.format(part, "%x")}
          %reshape: {flat} = Reshape(%split, %constant)
          %reshape_1: {flat} = Reshape(%split_1, %constant_1)
          %reshape_2: {flat} = Reshape(%split_2, %constant_2)
          %attention: {flat} = Attention(%reshape, %reshape_1, %reshape_2) {{{heads}}}
          return a = %attention
        }}"""
    assert becomes("fuse-heads", before, after).counts == {"packed-rows": 1}
