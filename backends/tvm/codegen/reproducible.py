"""Reproducible libraries: TVM orders the symbols of dynamic shapes by their addresses in memory."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

from tvm import IRModule, relax, tirx, transform
from tvm.relax import utils


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

    TVM collects them in a `set`, which is looked up in its module first, and lists that.
    """
    utils.set = _OrderedSet
    try:
        yield
    finally:
        del utils.set


def legalization() -> transform.Pass:
    """Return the first of TVM's default passes over Relax, after which there is a kernel behind every call.

    Expressions that kernels have taken in are removed first, since nothing reads them any more.
    """
    dispatch = [relax.backend.DispatchSampling(), relax.backend.DispatchSortScan()]
    return transform.Sequential([relax.transform.DeadCodeElimination(), *dispatch, relax.transform.LegalizeOps()])


def pipeline() -> transform.Pass:
    """Return TVM's default passes over Relax, and one that sorts the computations of sizes by where they are stored."""
    return transform.Sequential([relax.get_pipeline("default"), transform.module_pass(_sort_sizes, opt_level=0)])


def _sort_sizes(module: IRModule, _context: transform.PassContext) -> IRModule:
    for name, function in module.functions_items():
        if not name.name_hint.startswith("shape_func") or not isinstance(function, tirx.PrimFunc):
            continue
        if isinstance(function.body, tirx.SeqStmt):
            stores = sorted(function.body.seq, key=_place)
            module[name] = function.with_body(tirx.SeqStmt(stores))
    return module


def _place(store: tirx.Stmt) -> int:
    assert isinstance(store, tirx.BufferStore)
    index = store.indices[0]
    assert isinstance(index, tirx.IntImm)
    return int(index)
