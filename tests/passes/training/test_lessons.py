"""Lessons: data in pieces that can be held out, put together where their shapes agree, and a memory that is bounded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes import storage
from planish.passes.base import Feeds
from planish.passes.storage import Storage
from planish.passes.training.lessons import Lessons, Piece, divide


def doubling(*shape: int | str) -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, shape))
    graph.outputs["y"] = Builder(graph).Mul(x, np.array(2, np.float32))
    return graph


def numbers(rows: int, width: int = 3) -> Feeds:
    return {"x": np.arange(rows * width, dtype=np.float32).reshape(rows, width)}


def doubled(pieces: Sequence[Piece]) -> list[dict[str, torch.Tensor]]:
    return [{"y": 2 * torch.from_numpy(piece.feeds["x"])} for piece in pieces]


def test_large_batches_are_divided_with_their_labels() -> None:
    pieces = divide(doubling("batch", 3), [numbers(100), numbers(50)], [np.arange(100), list(range(50))])

    assert [piece.rows for piece in pieces] == [15] * 6 + [10] + [15] * 3 + [5]
    assert [label for piece in pieces for label in piece.labels] == [*range(100), *range(50)]
    assert np.array_equal(np.concatenate([piece.feeds["x"] for piece in pieces[:7]]), numbers(100)["x"])


def test_fixed_sizes_and_labels_of_a_batch_as_a_whole_stay_together() -> None:
    assert [piece.rows for piece in divide(doubling(100, 3), [numbers(100)])] == [1]
    assert [piece.rows for piece in divide(doubling("batch", 3), [numbers(100)], [7.0])] == [100]


def test_pieces_of_one_shape_become_one_batch_with_their_answers(tmp_path: Path) -> None:
    graph = doubling("batch", "width")
    pieces = divide(graph, [numbers(2), numbers(4, 5), numbers(3)])
    taught = Lessons(doubled, graph, pieces, Storage(tmp_path))

    first, second = taught.batches([0, 1, 2, 3, 4, 5, 6, 7, 8])

    assert (first.rows, second.rows) == (5, 4)
    for batch in (first, second):
        np.testing.assert_array_equal(batch.wanted["y"], 2 * batch.inputs[0])


@pytest.mark.parametrize(("in_memory", "on_disk", "asked"), [(0, 1 << 20, 1), (1 << 20, 0, 1), (0, 0, 3)])
def test_answers_are_asked_for_once_where_there_is_room_for_them(
    in_memory: int, on_disk: int, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_MOST_BYTES", in_memory)
    heard: list[Piece] = []
    graph = doubling("batch", 3)

    def answer(pieces: Sequence[Piece]) -> list[dict[str, torch.Tensor]]:
        heard.extend(pieces)
        return doubled(pieces)

    taught = Lessons(answer, graph, divide(graph, [numbers(1)]), Storage(tmp_path, on_disk))
    for _ in range(3):
        np.testing.assert_array_equal(taught.batches([0])[0].wanted["y"], 2 * numbers(1)["x"])

    assert len(heard) == asked


def test_pieces_of_fixed_sizes_stay_apart(tmp_path: Path) -> None:
    graph = doubling(2, 3)
    taught = Lessons(doubled, graph, divide(graph, [numbers(2), numbers(2)]), Storage(tmp_path))

    assert [batch.rows for batch in taught.batches([0, 1])] == [1, 1]


def test_a_piece_of_fixed_sizes_that_is_taken_twice_stays_two_batches(tmp_path: Path) -> None:
    graph = doubling(2, 3)
    taught = Lessons(doubled, graph, divide(graph, [numbers(2)]), Storage(tmp_path))
    assert [batch.inputs[0].shape for batch in taught.batches([0, 0])] == [(2, 3), (2, 3)]
    assert [batch.inputs[0].shape for batch in taught.apart([0, 0])] == [(2, 3), (2, 3)]
