"""What is known of small integer tensors that are computed from shapes."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.contents import contents
from planish.ir.dims import evaluate
from planish.ir.graph import Graph, Value
from planish.ir.scope import scope
from planish.ir.shape_values import elements, symbols
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType

IMAGE = TensorType(DType.float32, ("n", 3, "h", "w"))


def value_of(lines: str) -> Value:
    """The value %y of some lines, in a graph with an image %x, data %d and a tensor %u of a rank that nobody knows."""
    graph = parse_graph(
        f'graph "g"(%x: float32[n, 3, h, w], %d: int64[2], %u: float32[...]) {{\n{lines}\nreturn y = %y\n}}'
    )
    return graph.outputs["y"]


SHAPE = "%s: int64[4] = Shape(%x)\n"
MATRIX = SHAPE + "const %r: int64[2] = [2, 2]\n%m: int64[2, 2] = Reshape(%s, %r)\n"
AXIS = "const %a: int64[1] = [0]\n"
BOUNDS = "const %c: int64[] = 100\nconst %o: int64[] = 7\n"
CASES = {
    "constant": ("const %c: int64[3] = [1, 2, 3]\n%y: int64[3] = Identity(%c)", (1, 2, 3)),
    "shape": ("%y: int64[4] = Shape(%x)", ("n", 3, "h", "w")),
    "part": ("%y: int64[2] = Shape(%x) {start = 1, end = 3}", (3, "h")),
    "from behind": ("%y: int64[1] = Shape(%x) {start = -1}", ("w",)),
    "size": ("%y: int64[] = Size(%x)", ("3 * h * n * w",)),
    "gather": (SHAPE + "const %i: int64[2] = [-1, 0]\n%y: int64[2] = Gather(%s, %i)", ("w", "n")),
    "one": (SHAPE + "const %i: int64[] = 2\n%y: int64[] = Gather(%s, %i)", ("h",)),
    "slice": (
        SHAPE + "const %b: int64[1] = [1]\nconst %e: int64[1] = [9223372036854775807]\nconst %a: int64[1] = [0]\n"
        "const %t: int64[1] = [2]\n%y: int64[2] = Slice(%s, %b, %e, %a, %t)",
        (3, "w"),
    ),
    "slice without steps": (
        SHAPE + "const %b: int64[1] = [-2]\nconst %e: int64[1] = [4]\n%y: int64[2] = Slice(%s, %b, %e)",
        ("h", "w"),
    ),
    "rows reversed and turned": (
        MATRIX
        + "const %b: int64[1] = [-1]\nconst %e: int64[1] = [-9223372036854775807]\nconst %a: int64[1] = [0]\n"
        + "const %t: int64[1] = [-1]\n%v: int64[2, 2] = Slice(%m, %b, %e, %a, %t)\n"
        + "%y: int64[2, 2] = Transpose(%v) {perm = [1, 0]}",
        ("h", "n", "w", 3),
    ),
    "row of a matrix": (
        MATRIX + "const %i: int64[] = 1\n%y: int64[2] = Gather(%m, %i) {axis = 1}",
        (3, "w"),
    ),
    "concat": (
        SHAPE + "const %c: int64[1] = [-1]\n%y: int64[5] = Concat(%s, %c) {axis = 0}",
        ("n", 3, "h", "w", -1),
    ),
    "cast like another": (
        SHAPE + "const %c: int64[] = 0\n%y: int64[4] = CastLike(%s, %c)",
        ("n", 3, "h", "w"),
    ),
    "expanded": (
        SHAPE + "const %c: int64[2] = [2, 4]\n%y: int64[2, 4] = Expand(%s, %c)",
        ("n", 3, "h", "w", "n", 3, "h", "w"),
    ),
    "columns joined": (
        MATRIX + "%y: int64[2, 4] = Concat(%m, %m) {axis = 1}",
        ("n", 3, "n", 3, "h", "w", "h", "w"),
    ),
    "cast": (SHAPE + "%y: int32[4] = Cast(%s) {to = 6}", ("n", 3, "h", "w")),
    "cast of floats": (
        "const %f: float32[3] = [1.7, -1.7, 2.0]\n%y: int64[3] = Cast(%f) {to = 7}",
        (1, -1, 2),
    ),
    "squeeze": (
        "%s: int64[1] = Shape(%x) {start = 2, end = 3}\n%z: int64[] = Squeeze(%s)\n"
        + AXIS
        + "%y: int64[1] = Unsqueeze(%z, %a)",
        ("h",),
    ),
    "arithmetic": (
        SHAPE + "const %two: int64[] = 2\nconst %three: int64[4] = [3, 3, 3, 3]\n%p: int64[4] = Add(%s, %three)\n"
        "%m: int64[4] = Mul(%p, %two)\n%b: int64[4] = Sub(%m, %three)\n%y: int64[4] = Div(%b, %two)",
        ("n + 1", 4, "h + 1", "w + 1"),
    ),
    "remainder": (
        SHAPE + "const %c: int64[1] = [2]\n%m: int64[4] = Mod(%s, %c)\n%y: int64[4] = Neg(%m)",
        ("-Mod(n, 2)", -1, "-Mod(h, 2)", "-Mod(w, 2)"),
    ),
    "extremes": (
        BOUNDS
        + "%s: int64[2] = Shape(%x) {start = 1, end = 3}\n%m: int64[2] = Min(%s, %c)\n%y: int64[2] = Max(%o, %m)",
        (7, "Max(7, Min(100, h))"),
    ),
    "product": (
        "%s: int64[2] = Shape(%x) {start = 1, end = 3}\n%y: int64[1] = ReduceProd(%s) {keepdims = 1}",
        ("3 * h",),
    ),
    "filled": (
        "const %n: int64[1] = [2]\n%y: int64[2] = ConstantOfShape(%n) {value = int64[1] [5]}",
        (5, 5),
    ),
    "where": (
        SHAPE + "const %c: int64[4] = [-1, 3, -1, 8]\nconst %m: int64[] = -1\n%e: bool[4] = Equal(%c, %m)\n"
        "%y: int64[4] = Where(%e, %s, %c)",
        ("n", 3, "h", 8),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_elements_are_followed_to_where_they_were_made(name: str) -> None:
    lines, expected = CASES[name]
    assert contents(value_of(lines)) == expected


UNKNOWN = {
    "data": "%y: int64[2] = Identity(%d)",
    "partly data": "%s: int64[4] = Shape(%x)\n%y: int64[6] = Concat(%s, %d) {axis = 0}",
    "gathered by data": SHAPE + "%y: int64[2] = Gather(%s, %d)",
    "gathered by sizes": SHAPE + "%y: int64[4] = Gather(%s, %s)",
    "cut at a size": (
        SHAPE + "const %b: int64[1] = [0]\n%e: int64[1] = Shape(%x) {start = 2, end = 3}\n"
        "%y: int64[4] = Slice(%s, %b, %e)"
    ),
    "a place that isn't there": SHAPE + "const %i: int64[] = 7\n%y: int64[] = Gather(%s, %i)",
    "divided by zero": SHAPE + "const %c: int64[] = 0\n%y: int64[4] = Div(%s, %c)",
    "product of columns": (MATRIX + "const %a: int64[1] = [0]\n%y: int64[2] = ReduceProd(%m, %a) {keepdims = 0}"),
    "floats": "%y: float32[n, 3, h, w] = Relu(%x)",
    "through floats": (
        SHAPE + "const %c: float32[] = 0.5\n%f: float32[4] = Cast(%s) {to = 1}\n%m: float32[4] = Mul(%f, %c)\n"
        "%y: int64[4] = Cast(%m) {to = 7}"
    ),
    "too many": "const %n: int64[1] = [65]\n%y: int64[65] = ConstantOfShape(%n) {value = int64[1] [5]}",
    "of no known rank of its own": "%y: int64[k] = Identity(%d)",
    "size of any rank": "%y: int64[] = Size(%u)",
    "part of any rank": "%y: int64[1] = Shape(%u) {end = 1}",
    "truncated remainder": SHAPE + "const %c: int64[1] = [2]\n%y: int64[4] = Mod(%s, %c) {fmod = 1}",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_depends_on_data_is_not_guessed(name: str) -> None:
    assert contents(value_of(UNKNOWN[name])) is None


@pytest.mark.parametrize(
    "lines",
    [
        "const %c: int64[1] = [9223372036854775807]\n%y: int64[1] = Add(%c, %c)",
        "const %c: uint8[1] = [200]\n%s: uint8[1] = Add(%c, %c)\n%y: int64[1] = Cast(%s) {to = 7}",
        "const %c: uint8[1] = [1]\n%s: uint8[1] = Neg(%c)\n%y: int64[1] = Cast(%s) {to = 7}",
        "const %c: int64[1] = [4294967296]\n%s: int32[1] = Cast(%c) {to = 6}\n%y: int64[1] = Cast(%s) {to = 7}",
        "const %c: float32[1] = [nan]\n%y: int64[1] = Cast(%c) {to = 7}",
        "const %c: float32[1] = [1e30]\n%y: int64[1] = Cast(%c) {to = 7}",
    ],
)
def test_what_a_type_does_not_hold_is_not_guessed(lines: str) -> None:
    assert contents(value_of(lines)) is None


def test_floats_are_rounded_as_their_type_is() -> None:
    ten, part = "const %c: float32[1] = [10.0]\n", "const %p: float32[1] = [0.7]\n"
    value = value_of(ten + part + "%s: float32[1] = Mul(%c, %p)\n%y: int64[1] = Cast(%s) {to = 7}")
    assert contents(value) == (7,)  # in double precision it would be 6


def test_bounds_of_a_slice_are_taken_in_a_row() -> None:
    bounds = "const %b: int64[1, 1] = [1]\nconst %e: int64[] = 3\n"
    assert contents(value_of(SHAPE + bounds + "%y: int64[2] = Slice(%s, %b, %e)")) == (3, "h")


@pytest.mark.parametrize(("a", "b"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (-8, 2)])
def test_integers_are_divided_towards_zero(a: int, b: int) -> None:
    lines = f"const %a: int64[] = {a}\nconst %b: int64[] = {b}\n%y: int64[] = Div(%a, %b)"
    assert contents(value_of(lines)) == (int(a / b),)


@pytest.mark.parametrize("divisor", [2, -2])
def test_what_may_be_below_zero_is_divided_towards_it(divisor: int) -> None:
    missing = "const %c: int64[] = 6\nconst %i: int64[] = 2\n%h: int64[] = Gather(%s, %i)\n%m: int64[] = Sub(%c, %h)\n"
    found = contents(value_of(f"{SHAPE}{missing}const %by: int64[] = {divisor}\n%y: int64[] = Div(%m, %by)"))
    assert found is not None
    for h in range(1, 12):
        assert evaluate(found[0], {"h": h}) == int((6 - h) / divisor)


def test_elements_keep_the_tensors_shape() -> None:
    lines = (
        "const %c: int64[2] = [2, 1]\n%s: int64[2] = Shape(%x) {start = 2, end = 4}\n%y: int64[2, 1] = Reshape(%s, %c)"
    )
    found = elements(value_of(lines), {"h": 10, "w": 20}.__getitem__)
    assert found is not None
    assert found.tolist() == [[10], [20]]


def test_the_caller_brings_the_arithmetic() -> None:
    value = value_of(SHAPE + "const %c: int64[] = 2\n%y: int64[4] = Mul(%s, %c)")
    assert symbols(value) == {"n", "h", "w"}
    found = elements(value, lambda dim: np.float64(0.5) if isinstance(dim, str) else dim)
    assert found is not None
    assert found.tolist() == [1.0, 6, 1.0, 1.0]


def test_a_shape_that_is_read_along_many_paths_is_followed_once() -> None:
    """Sixty doublings have 2**60 paths to their beginning."""
    graph = Graph()
    op = Builder(graph)
    value = op.Shape(graph.add_input("x", IMAGE), start=2, end=3)
    for _ in range(60):
        value = op.Add(value, value)
    assert symbols(value) == {"n", "h", "w"}
    assert contents(value) == (f"{2**60} * h",)


def test_two_sizes_that_may_be_equal_are_not_taken_to_be() -> None:
    """`Where(h == w + 48, ...)` has an answer for the sizes tried, which is not that for others."""
    names = ("h", "n", "w")
    sizes = [scope(names).sizes[name].node.hint for name in names]
    lines = (
        f"{SHAPE}const %i: int64[] = 2\nconst %j: int64[] = 3\n"
        f"%h: int64[] = Gather(%s, %i)\n%w: int64[] = Gather(%s, %j)\n"
    )
    lines += f"const %c: int64[] = {sizes[0] - sizes[2]}\n%k: int64[] = Add(%w, %c)\n%y: bool[] = Equal(%h, %k)"
    assert contents(value_of(lines)) is None
    assert contents(value_of(SHAPE.replace("%s", "%y"))) == ("n", 3, "h", "w")


def test_sizes_that_may_be_equal_are_not_taken_to_differ() -> None:
    op = Builder(Graph())
    x = op.graph.add_input("x", TensorType(DType.float32, ("n", 3)))
    n, three = (op.Shape(x, start=axis, end=axis + 1) for axis in (0, 1))
    cases = {(n, 1): None, (n, -1): (False,), (n, 0): (False,), (three, 3): (True,), (op.Add(n, 1), 1): (False,)}
    assert {key: contents(op.Equal(key[0], [key[1]])) for key in cases} == cases
