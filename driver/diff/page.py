"""The page of `planish diff --html`: both graphs on one canvas, and what differs between them."""

from typing import Any

from ..page.history import decoded, fitted, size_of
from ..page.page import LONGEST, filled
from ..results import plain
from .differences import Differences

_ROOM, _MOST = 120_000, 400
"""Bytes that a page takes beside its data, and rows of a table and texts of a list at the most."""
_LISTS = ("nodes", "only_a", "only_b", "weights")


def diff_data(found: Differences) -> dict[str, Any]:
    """All that the page is made of, as plain values, lists shortened to what a reader looks through."""
    data: dict[str, Any] = plain(found)
    left = {name: len(data[name]) - _MOST for name in _LISTS if len(data[name]) > _MOST}
    data |= {name: data[name][:_MOST] for name in _LISTS}
    data["left_out"] = "; ".join(f"{number} more of {name.replace('_', ' ')}" for name, number in left.items())
    data["steps"] = [f"{letter}: {name}" for letter, name in zip("AB", found.names, strict=True)]
    data["layers"] = []
    data["graphs"] = fitted(decoded(found.graphs), LONGEST - _ROOM - 2 * size_of({**data, "graphs": None}))
    return data


def diff_page(found: Differences) -> str:
    """The differences between two models as a page in HTML, one file that needs nothing else."""
    return filled("diff.html", diff_data(found), verdict=verdict(found))


def verdict(found: Differences) -> str:
    """How two models differ, in one sentence."""
    nodes = f"{found.same} nodes are the same, {len(found.nodes)} differ"
    alone = f"{len(found.only_a)} are in A alone and {len(found.only_b)} in B alone"
    weights = f"{len(found.weights)} weights differ"
    return f"{nodes}, {alone}; {weights}."
