"""What planish needs of TVM 0.27 beyond its public names: a patch, and a table.

The patch holds in one thread at a time. `test_compat.py` has a test that fails once TVM no longer needs it.
"""

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

from tvm import tirx
from tvm.relax import utils
from tvm.relax.frontend.onnx import onnx_frontend

_PATCHING = threading.RLock()


def importers() -> "Mapping[str, type[onnx_frontend.OnnxOpConverter]]":
    """Return the converters of TVM's ONNX importer by operator; the table has no public name."""
    return onnx_frontend._get_convert_map()


class _OrderedSet:
    """A set of symbols in the order of insertion, with the methods that TVM calls."""

    def __init__(self, items: Iterable[tirx.Var] = ()) -> None:
        self._items = dict.fromkeys(items)

    def add(self, item: tirx.Var) -> None:
        self._items[item] = None

    def update(self, items: Iterable[tirx.Var]) -> None:
        self._items.update(dict.fromkeys(items))

    def __sub__(self, other: "_OrderedSet") -> "_OrderedSet":
        return _OrderedSet(item for item in self if item not in other._items)

    def __iter__(self) -> Iterator[tirx.Var]:
        return iter(self._items)


@contextmanager
def ordered_symbols() -> Generator[None]:
    """Have TVM's kernels take the symbols of their shapes in the order in which they occur, while this lasts.

    `tvm.relax.utils.gen_call_tir_inputs` collects them in a `set`, which orders them by their addresses in memory, and
    lists that, so that the same graph would give another library each time. The name `set` is looked up in its module
    before it is taken for Python's (https://github.com/apache/tvm/blob/main/python/tvm/relax/utils.py).
    """
    with _PATCHING:
        held = vars(utils).get("set")
        utils.set = _OrderedSet
        try:
            yield
        finally:
            if held is None:
                del utils.set
