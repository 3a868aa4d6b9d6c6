"""What a module returns, as a flat row of tensors with the names of the keys and fields that hold them."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

_KNOWN = (torch.Tensor, torch.SymInt, int, float, str)
"""What export takes for a result, beside None."""


@contextmanager
def plain_results(module: nn.Module) -> Generator[list[str]]:
    """Let a module return a flat list of its results while this lasts; objects unknown to export become their tensors.

    A container of a library's own need not be put together again in the order in which it was taken apart. Gives the
    list of the results' names, which is filled when the module runs; those of a tuple or a lone tensor are empty.
    """
    forward = module.forward
    own = vars(module).get("forward")
    names: list[str] = []

    @wraps(forward)
    def plain(*arguments: Any, **keywords: Any) -> Any:
        results = list(_named(forward(*arguments, **keywords), "", set()))
        names[:] = [name for name, _ in results]
        return [result for _, result in results]

    module.forward = plain
    try:
        yield names
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def result_names(program: ExportedProgram) -> list[str]:
    """The names of what an exported program returns, as of a module that returns the same."""
    structure = program.call_spec.out_spec
    if structure is None:
        return []
    places = pytree.tree_unflatten(list(range(structure.num_leaves)), structure)
    return [name for name, _ in _named(places, "", set())]


def _named(thing: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The leaves of a result with their names, containers of torch's, of libraries and of the user's taken apart."""
    if thing is None or isinstance(thing, _KNOWN):
        yield name, thing
        return
    entries = _entries(thing)
    if entries is not None:
        for key, part in entries:
            yield from _named(part, _joined(name, key), seen)
    elif not isinstance(thing, nn.Module | type) and id(thing) not in seen:
        seen.add(id(thing))
        leaves = pytree.tree_leaves(getattr(thing, "__dict__", ()))
        for leaf in leaves:
            yield from ((name, part) for _, part in _named(leaf, "", seen) if isinstance(part, torch.Tensor))


def _joined(name: str, key: Any) -> str:
    """The name of a part; those of a tuple that has no name have none."""
    if not name:
        return "" if isinstance(key, int) else str(key)
    return f"{name}_{key}"


def _entries(thing: Any) -> Iterable[tuple[Any, Any]] | None:
    """The parts of a container by key, field or index; None of what is none."""
    if isinstance(thing, Mapping):
        return thing.items()
    if is_dataclass(thing) and not isinstance(thing, type):
        return [(field.name, getattr(thing, field.name)) for field in fields(thing)]
    if isinstance(thing, tuple) and hasattr(thing, "_asdict"):
        return cast("Any", thing)._asdict().items()
    parts = pytree.tree_leaves(thing, is_leaf=lambda part: part is not thing)
    return None if len(parts) == 1 and parts[0] is thing else enumerate(parts)
