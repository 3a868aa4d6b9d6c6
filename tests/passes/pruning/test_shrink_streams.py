"""Removing channels that run through a whole model: the stream of a transformer, and states of recurrent layers."""

from collections.abc import Callable

import numpy as np
import pytest
from removal import agree, first_half, remove_some

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import DType, TensorType

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Words:
    """A model of words under construction, `int64[batch, 6]`."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.ids = self.graph.add_input("ids", TensorType(DType.int64, ("batch", 6)))
        self.op = Builder(self.graph)
        self.feeds = {"ids": np.random.default_rng(1).integers(0, 20, (3, 6))}

    def constant(self, name: str, *shape: int) -> Value:
        return self.op.constant(array(*shape), name)

    def embed(self, size: int) -> Value:
        return self.op.Gather(self.constant("table", 20, size), self.ids)

    def linear(self, x: Value, name: str, outputs: int) -> Value:
        size = x.shape[-1]
        assert isinstance(size, int)
        self.op.location = Location(name)
        return self.op.MatMul(x, self.constant(name, size, outputs))

    def ends(self, y: Value) -> Callable[[str], tuple[int, ...]]:
        """Return a value from the graph, remove half of all channels, and hold what is left to the masked whole.

        Returns:
            The shape of a constant afterwards.
        """
        self.graph.outputs["y"] = y
        masked = remove_some(self.graph, first_half)
        assert agree(self.graph, self.feeds, masked)
        return lambda name: self.graph.constants[name].data.shape


def layer_norm(words: Words, x: Value) -> Value:
    return words.op.LayerNormalization(x, array(12), array(12))


def rms_norm(words: Words, x: Value) -> Value:
    return words.op.RMSNormalization(x, array(12))


def skip_norm(words: Words, x: Value) -> Value:
    return words.op("com.microsoft::SkipLayerNormalization", x, x, array(12), array(12), array(12))


def spelled_out(words: Words, x: Value) -> Value:
    """A layer norm in single operators, as older exporters write it."""
    op = words.op
    distance = op.Sub(x, op.ReduceMean(x, [-1]))
    spread = op.Sqrt(op.Add(op.ReduceMean(op.Mul(distance, distance), [-1]), np.float32(1e-5)))
    return op.Add(op.Mul(op.Div(distance, spread), array(12)), array(12))


@pytest.mark.parametrize("norm", [layer_norm, rms_norm, skip_norm, spelled_out])
def test_the_stream_of_a_transformer_is_narrowed_from_the_embeddings_to_the_tied_head(
    norm: Callable[[Words, Value], Value],
) -> None:
    words = Words()
    h = words.op.Add(words.embed(12), words.constant("positions", 6, 12))
    query, key, value = (
        words.op.Transpose(words.op.Reshape(words.linear(norm(words, h), name, 8), [0, 0, 2, 4]), perm=(0, 2, 1, 3))
        for name in ("query", "key", "value")
    )
    mixed = words.op.Transpose(words.op.Attention(query, key, value), perm=(0, 2, 1, 3))
    h = words.op.Add(h, words.linear(words.op.Reshape(mixed, [0, 0, 8]), "out", 12))
    inner = words.op.Gelu(words.linear(norm(words, h), "up", 16))
    h = norm(words, words.op.Add(h, words.linear(inner, "down", 12)))
    table = words.graph.constants["table"]

    shape = words.ends(words.op.MatMul(h, words.op.Transpose(table, perm=(1, 0))))

    assert {name: shape(name) for name in ("table", "positions", "query", "out", "up", "down")} == {
        "table": (20, 6),
        "positions": (6, 6),
        "query": (6, 4),
        "out": (4, 6),
        "up": (6, 8),
        "down": (8, 6),
    }


def by_slices(op: Builder, x: Value) -> Value:
    return op.Concat(*(op.Slice(x, [start], [4], [2], [2]) for start in (0, 1)), axis=3)


def by_reshapes(op: Builder, x: Value) -> Value:
    return op.Reshape(x, [0, 3, 2, 8])


@pytest.mark.parametrize("merge", [by_slices, by_reshapes])
def test_windows_of_an_image_keep_the_stream_together(merge: Callable[[Builder, Value], Value]) -> None:
    """Swin's: rolled by slices, dealt out to windows, and places merged to one."""
    words = Words()
    op = words.op
    h = op.Reshape(op.Concat(words.embed(4), words.embed(4), axis=1), [0, 3, 4, 4])  # [batch, rows, columns, channels]
    rolled = op.Concat(op.Slice(h, [1], [4], [2]), op.Slice(h, [0], [1], [2]), axis=2)
    windows = op.Transpose(op.Reshape(rolled, [0, 3, 2, 2, 4]), perm=(0, 2, 1, 3, 4))
    windows = op.Reshape(windows, [-1, 6, 4])
    inner = words.linear(op.Softmax(words.linear(windows, "query", 6), axis=1), "out", 4)
    inner = op.Transpose(op.Reshape(op.Add(windows, inner), [-1, 2, 3, 2, 4]), perm=(0, 2, 1, 3, 4))
    inner = op.Reshape(inner, [-1, 3, 4, 4])
    merged = merge(op, inner)

    shape = words.ends(words.linear(op.LayerNormalization(merged, array(8), array(8)), "reduce", 5))

    assert {name: shape(name) for name in ("table", "query", "out", "reduce")} == {
        "table": (20, 2),
        "query": (2, 3),
        "out": (3, 2),
        "reduce": (4, 5),
    }


# -- recurrent layers


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("operator", GATES)
def test_recurrent_layers_lose_hidden_units(operator: str, direction: str) -> None:
    words, size = Words(), 6
    directions, gates = 1 + (direction == "bidirectional"), GATES[operator]
    h = words.op.Transpose(words.embed(4), perm=(1, 0, 2))
    for layer in range(2):
        shapes = [
            (directions, gates * size, h.shape[2]),
            (directions, gates * size, size),
            (directions, 2 * gates * size),
        ]
        weights = [words.constant(f"{name}{layer}", *shape) for name, shape in zip("wrb", shapes, strict=True)]
        words.op.location = Location(f"layer{layer}")
        zeros = words.op.Expand(
            np.float32(0), words.op.Concat([directions], words.op.Shape(words.ids, end=1), [size], axis=0)
        )
        states = (zeros, zeros) if operator == "LSTM" else (zeros,)
        y = words.op(operator, h, *weights, None, *states, direction=direction, hidden_size=size)
        h = words.op.Reshape(words.op.Transpose(y, perm=(0, 2, 1, 3)), [0, 0, directions * size])

    shape = words.ends(words.linear(h, "head", 5))

    assert shape("w1") == (directions, gates * 3, directions * 3)
    assert shape("r1") == (directions, gates * 3, 3)
    assert shape("b1") == (directions, 2 * gates * 3)
    assert shape("head") == (directions * 3, 5)


@pytest.mark.parametrize("layout", [0, 1])
def test_states_and_peepholes_lose_hidden_units(layout: int) -> None:
    words = Words()
    x = words.op.Reshape(words.embed(4), [2, 9, 4])  # two sequences of nine, or nine of two
    batch = 2 if layout else 9
    state = (batch, 1, 4) if layout else (1, batch, 4)
    weights = [words.constant(name, *shape) for name, shape in {"w": (1, 16, 4), "r": (1, 16, 4), "b": (1, 32)}.items()]
    states = words.constant("h0", *state), words.constant("c0", *state), words.constant("peepholes", 1, 12)
    words.op.location = Location("lstm")
    y, last, cell = words.op.LSTM(x, *weights, None, *states, hidden_size=4, layout=layout, outputs=3)
    ends = words.op.Squeeze(words.op.Concat(last, cell, axis=2), [1 if layout else 0])
    assert y.shape == ((2, 9, 1, 4) if layout else (2, 1, 9, 4))

    shape = words.ends(words.linear(ends, "head", 5))

    assert (shape("h0")[2], shape("c0")[2], shape("peepholes"), shape("head")) == (2, 2, (1, 6), (4, 5))


# -- texts


def removed(before: str, after: str, **weights: np.ndarray) -> Graph:
    """The first half of all channels is gone from a text; what is left is another text."""
    graph = parse_graph(f'graph "main"{before}', weights)
    remove_some(graph, first_half)
    assert print_graph(graph) == print_graph(parse_graph(f'graph "main"{after}', graph_weights(graph)))
    return graph


def graph_weights(graph: Graph) -> dict[str, np.ndarray]:
    return {name: constant.data for name, constant in graph.constants.items()}


def test_a_hidden_unit_goes_from_every_gate() -> None:
    w, r, b = array(1, 6, 2), array(1, 6, 2), array(1, 12)
    before = """(%x: float32[length, batch, 2]) {
      const %w: float32[1, 6, 2]
      const %r: float32[1, 6, 2]
      const %b: float32[1, 12]
      const %axes: int64[1] = [1]
      const %head: float32[2, 3]
      %h: float32[length, 1, batch, 2] = GRU(%x, %w, %r, %b) {hidden_size = 2} @ "gru"
      %s: float32[length, batch, 2] = Squeeze(%h, %axes)
      %y: float32[length, batch, 3] = MatMul(%s, %head) @ "head"
      return y = %y
    }"""
    after = """(%x: float32[length, batch, 2]) {
      const %w: float32[1, 3, 2]
      const %r: float32[1, 3, 1]
      const %b: float32[1, 6]
      const %axes: int64[1] = [1]
      const %head: float32[1, 3]
      %h: float32[length, 1, batch, 1] = GRU(%x, %w, %r, %b) {hidden_size = 1} @ "gru"
      %s: float32[length, batch, 1] = Squeeze(%h, %axes)
      %y: float32[length, batch, 3] = MatMul(%s, %head) @ "head"
      return y = %y
    }"""

    graph = removed(before, after, w=w, r=r, b=b, head=array(2, 3))

    assert np.array_equal(graph.constants["w"].data, w[:, 1::2])
    assert np.array_equal(graph.constants["r"].data, r[:, 1::2, 1:])
    assert np.array_equal(graph.constants["b"].data, b[:, 1::2])


def test_the_ends_of_a_slice_and_the_places_of_a_gather_move() -> None:
    before = """(%x: float32[batch, 2]) {
      const %w: float32[2, 8]
      const %start: int64[1] = [-7]
      const %end: int64[1] = [9223372036854775807]
      const %axis: int64[1] = [1]
      const %places: int64[3] = [-1, 0, 6]
      const %left: float32[7, 3]
      const %right: float32[3, 3]
      %h: float32[batch, 8] = MatMul(%x, %w) @ "w"
      %s: float32[batch, 7] = Slice(%h, %start, %end, %axis)
      %l: float32[batch, 3] = MatMul(%s, %left) @ "left"
      %g: float32[batch, 3] = Gather(%h, %places) {axis = 1}
      %r: float32[batch, 3] = MatMul(%g, %right) @ "right"
      %y: float32[batch, 3] = Add(%l, %r)
      return y = %y
    }"""
    after = """(%x: float32[batch, 2]) {
      const %w: float32[2, 5]
      const %axis: int64[1] = [1]
      const %left: float32[4, 3]
      const %right: float32[2, 3]
      const %start_1: int64[1] = [1]
      const %end_1: int64[1] = [5]
      const %places_1: int64[2] = [4, 0]
      %h: float32[batch, 5] = MatMul(%x, %w) @ "w"
      %s: float32[batch, 4] = Slice(%h, %start_1, %end_1, %axis)
      %l: float32[batch, 3] = MatMul(%s, %left) @ "left"
      %g: float32[batch, 2] = Gather(%h, %places_1) {axis = 1}
      %r: float32[batch, 3] = MatMul(%g, %right) @ "right"
      %y: float32[batch, 3] = Add(%l, %r)
      return y = %y
    }"""

    graph = removed(before, after, w=np.arange(16, dtype=np.float32).reshape(2, 8), left=array(7, 3), right=array(3, 3))

    assert graph.constants["w"].data[0].tolist() == [0, 3, 4, 5, 7]


def test_a_norm_over_the_stream_is_of_what_is_left() -> None:
    before = """(%ids: int64[batch, length]) {
      const %table: float32[20, 2]
      const %w: float32[2, 2]
      const %scale: float32[2] = [1.0, 2.0]
      const %shift: float32[2] = [3.0, 4.0]
      const %head: float32[2, 3]
      %e: float32[batch, length, 2] = Gather(%table, %ids)
      %h: float32[batch, length, 2] = MatMul(%e, %w) @ "w"
      %s: float32[batch, length, 2] = Add(%e, %h)
      %n: float32[batch, length, 2] = LayerNormalization(%s, %scale, %shift)
      %y: float32[batch, length, 3] = MatMul(%n, %head) @ "head"
      return y = %y
    }"""
    after = """(%ids: int64[batch, length]) {
      const %table: float32[20, 1]
      const %w: float32[1, 1]
      const %scale: float32[1] = [2.0]
      const %shift: float32[1] = [4.0]
      const %head: float32[1, 3]
      %e: float32[batch, length, 1] = Gather(%table, %ids)
      %h: float32[batch, length, 1] = MatMul(%e, %w) @ "w"
      %s: float32[batch, length, 1] = Add(%e, %h)
      %n: float32[batch, length, 1] = LayerNormalization(%s, %scale, %shift)
      %y: float32[batch, length, 3] = MatMul(%n, %head) @ "head"
      return y = %y
    }"""
    removed(before, after, table=array(20, 2), w=array(2, 2), head=array(2, 3))
