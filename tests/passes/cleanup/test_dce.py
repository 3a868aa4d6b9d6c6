"""Nodes and constants that nobody reads go; what the graph returns, and its inputs, stay."""


def test_dead_chains_and_their_constants_go(becomes) -> None:
    before = """(%x: float32[2], %unused: float32[7]) {
      const %weight: float32[2] = [1.0, 2.0]
      const %returned: float32[1] = [3.0]
      const %shared: float32[] = 4.0
      const %orphan: float32[] = 5.0
      %a: float32[2] = Mul(%x, %weight)
      %b: float32[2] = Add(%a, %shared)
      %c: float32[2] = Exp(%b)
      %y: float32[2] = Add(%x, %shared)
      return y = %y, r = %returned
    }"""
    after = """(%x: float32[2], %unused: float32[7]) {
      const %returned: float32[1] = [3.0]
      const %shared: float32[] = 4.0
      %y: float32[2] = Add(%x, %shared)
      return y = %y, r = %returned
    }"""
    assert becomes("dce", before, after).counts == {"nodes": 3, "constants": 2}


def test_a_node_lives_by_any_of_its_outputs(stays) -> None:
    stays("dce", "(%x: float32[4]) { %a: float32[2], %b: float32[2] = Split(%x) {num_outputs = 2} return b = %b }")


def test_a_dead_node_of_several_outputs_goes(becomes) -> None:
    before = "(%x: float32[4]) { %a: float32[2], %b: float32[2] = Split(%x) {num_outputs = 2} return x = %x }"
    becomes("dce", before, "(%x: float32[4]) { return x = %x }")
