"""What is computed twice is computed once, down to constants; what is random, or differs in an attribute, is not."""

import numpy as np
import pytest

from planish.ir.text import parse_graph
from planish.passes.cleanup.cse import CommonSubexpressionElimination


def test_equal_chains_become_one(becomes) -> None:
    before = """(%x: float32[2, 3]) {
      %a: float32[2, 3] = Relu(%x) @ "first"
      %b: float32[2, 3] = Relu(%x) @ "second"
      %c: float32[2, 3] = Exp(%a)
      %d: float32[2, 3] = Exp(%b)
      %e: float32[2, 3] = Sub(%c, %d)
      return e = %e, d = %d
    }"""
    after = """(%x: float32[2, 3]) {
      %a: float32[2, 3] = Relu(%x) @ "first"
      %c: float32[2, 3] = Exp(%a)
      %e: float32[2, 3] = Sub(%c, %c)
      return e = %e, d = %c
    }"""
    assert becomes("cse", before, after).counts == {"nodes": 2, "constants": 0}


def test_equal_small_constants_become_one_and_so_do_their_readers(becomes) -> None:
    before = """(%x: float32[2, 3]) {
      const %one: float32[] = 1.5
      const %uno: float32[] = 1.5
      const %row: float32[1] = [1.5]
      const %half: float64[] = 1.5
      %a: float32[2, 3] = Add(%x, %one)
      %b: float32[2, 3] = Add(%x, %uno)
      %c: float32[2, 3] = Add(%x, %row)
      return a = %a, b = %b, c = %c, d = %uno, e = %half
    }"""
    after = """(%x: float32[2, 3]) {
      const %one: float32[] = 1.5
      const %row: float32[1] = [1.5]
      const %half: float64[] = 1.5
      %a: float32[2, 3] = Add(%x, %one)
      %c: float32[2, 3] = Add(%x, %row)
      return a = %a, b = %a, c = %c, d = %one, e = %half
    }"""
    assert becomes("cse", before, after).counts == {"nodes": 1, "constants": 1}


def test_large_constants_are_equal_bit_by_bit(becomes) -> None:
    """Also where they lie in memory of their own, as in files that hold a tied weight twice."""
    weight = np.arange(1200, dtype=np.float32).reshape(3, 400)
    other = weight.copy()
    other[1, 1] = 0.5
    before = """(%x: float32[1]) {
      const %a: float32[3, 400]
      const %b: float32[3, 400]
      const %c: float32[3, 400]
      %sum: float32[3, 400] = Sum(%x, %a, %b, %c)
      return sum = %sum
    }"""
    after = before.replace("const %b: float32[3, 400]", "").replace("%a, %b, %c", "%a, %a, %c")
    becomes("cse", before, after, {"a": weight, "b": weight.copy(order="F"), "c": other})


def test_large_constants_that_share_memory(becomes) -> None:
    weight = np.arange(1200, dtype=np.float32)
    before = """(%x: float32[1]) {
      const %a: float32[1200]
      const %b: float32[1200]
      const %c: float32[1200]
      const %d: float32[600]
      const %e: float32[600]
      %sum: float32[1200] = Sum(%x, %a, %b, %c)
      return sum = %sum, d = %d, e = %e
    }"""
    after = before.replace("const %b: float32[1200]", "").replace("%a, %b, %c", "%a, %a, %c")
    # the halves begin where the whole does, and where each other do, with other strides
    data = {"a": weight, "b": weight, "c": weight + 1, "d": weight[:600], "e": weight[::2]}
    becomes("cse", before, after, data)


def test_large_constants_of_several_branches_become_one_outside_of_them(becomes) -> None:
    """What a branch returns must be its own, and small constants cost nothing where they are."""
    weight = np.arange(1200, dtype=np.float32)
    before = """(%x: float32[1200], %p: bool[], %q: bool[]) {
      %y: float32[1200] = If(%p) {else_branch = graph "no"() {
        const %a: float32[1200]
        const %one: float32[] = 1.0
        %s: float32[1200] = Add(%x, %a)
        %t: float32[1200] = Add(%s, %one)
        return t = %t
      }, then_branch = graph "yes"() {
        %z: float32[1200] = If(%q) {else_branch = graph "inner"() {
          const %b: float32[1200]
          %m: float32[1200] = Mul(%x, %b)
          return m = %m
        }, then_branch = graph "own"() {
          const %c: float32[1200]
          return c = %c
        }}
        const %uno: float32[] = 1.0
        %u: float32[1200] = Sub(%z, %uno)
        return u = %u
      }}
      return y = %y
    }"""
    inner = "        const %a: float32[1200]\n"
    after = before.replace(inner, "").replace("          const %b: float32[1200]\n", "").replace("%b", "%a")
    after = after.replace("%q: bool[]) {", "%q: bool[]) {\n      const %a: float32[1200]", 1)
    places = ("a", "y>else_branch>a", "y>then_branch>z>else_branch>b", "y>then_branch>z>then_branch>c")
    result = becomes("cse", before, after, {place: weight.copy() for place in places})
    assert result.counts == {"nodes": 0, "constants": 1}


@pytest.mark.parametrize(
    "body",
    [
        "%a: float32[2, 2] = Elu(%x) {alpha = 0.5} %b: float32[2, 2] = Elu(%x) {alpha = 0.25}",
        "%a: float32[2, 2] = Sub(%x, %z) %b: float32[2, 2] = Sub(%z, %x)",
        "%a: float32[2, 2] = Clip(%x, %low) %b: float32[2, 2] = Clip(%x, none, %low)",
        "%a: float32[2, 2] = Relu(%x) %b: float32[2, 2] = Relu(%z)",
        "%a: float32[1, 2] = ReduceSum(%x, %axis) %b: float32[2] = ReduceSum(%x, %axis) {keepdims = 0}",
    ],
)
def test_what_differs_in_an_input_or_attribute(stays, body: str) -> None:
    constants = "const %axis: int64[1] = [0]"
    inputs = "%x: float32[2, 2], %z: float32[2, 2], %low: float32[]"
    stays("cse", f"({inputs}) {{ {constants} {body} return a = %a, b = %b }}")


def test_zeros_of_either_sign_are_two_constants(stays) -> None:
    constants = "const %p: float32[] = 0.0 const %n: float32[] = -0.0"
    stays("cse", f"(%x: float32[2]) {{ {constants} %a: float32[2] = Div(%x, %p) return a = %a, p = %p, n = %n }}")


@pytest.mark.parametrize(
    "call",
    [
        "RandomNormalLike(%x)",
        "RandomUniformLike(%x)",
        "Bernoulli(%x)",
        "RandomNormal() {shape = [2]}",
        "RandomUniform() {shape = [2]}",
        "Dropout(%x, none, %training)",
    ],
)
def test_two_random_draws_stay_two(graph_of, context, call: str) -> None:
    body = f"const %training: bool[] = true %a: float32[2] = {call} %b: float32[2] = {call}"
    graph = graph_of(f"(%x: float32[2]) {{ {body} return a = %a, b = %b }}")
    assert not CommonSubexpressionElimination().run(graph, context(graph)).changed
    assert len(graph) == 2


def test_nodes_of_several_outputs(becomes) -> None:
    before = """(%x: float32[4]) {
      %a: float32[2], %b: float32[2] = Split(%x) {num_outputs = 2}
      %c: float32[2], %d: float32[2] = Split(%x) {num_outputs = 2}
      %y: float32[2] = Add(%a, %d)
      return y = %y
    }"""
    after = """(%x: float32[4]) {
      %a: float32[2], %b: float32[2] = Split(%x) {num_outputs = 2}
      %y: float32[2] = Add(%a, %b)
      return y = %y
    }"""
    becomes("cse", before, after)


def test_tensor_attributes_are_compared_by_content(becomes) -> None:
    before = """(%n: int64[1]) {
      const %shape: int64[1] = [2]
      %a: float32[2] = ConstantOfShape(%shape) {value = float32[1] [1.0]}
      %b: float32[2] = ConstantOfShape(%shape) {value = float32[1] [1.0]}
      %c: int64[2] = ConstantOfShape(%shape) {value = int64[1] [1]}
      %d: float32[2] = ConstantOfShape(%shape) {value = float32[1] [2.0]}
      return n = %n, a = %a, b = %b, c = %c, d = %d
    }"""
    after = """(%n: int64[1]) {
      const %shape: int64[1] = [2]
      %a: float32[2] = ConstantOfShape(%shape) {value = float32[1] [1.0]}
      %c: int64[2] = ConstantOfShape(%shape) {value = int64[1] [1]}
      %d: float32[2] = ConstantOfShape(%shape) {value = float32[1] [2.0]}
      return n = %n, a = %a, b = %a, c = %c, d = %d
    }"""
    becomes("cse", before, after)


def test_sizes_that_only_data_tells_keep_their_names(context) -> None:
    """Graph 26851: a size by the name that one of two equal nodes had given it was read where neither was left."""
    graph = parse_graph(
        """graph "main"(%x: float32[n]) {
      %a: float32[state__1111111111_0] = Identity(%x)
      %b: float32[state__2222222222_0] = Identity(%x)
      %y: float32[state__1111111111_0] = Relu(%a)
      %z: float32[state__2222222222_0] = Relu(%b)
      return y = %y, z = %z
    }"""
    )
    assert CommonSubexpressionElimination().run(graph, context(graph)).counts["nodes"] == 0
