"""Export a module: what `torch.export` needs of a module, its inputs and its outputs."""

import logging
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass
from functools import wraps
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ...ir.errors import ModelError
from .compat_torch import known_numbers, ordinary_sizes
from .compat_torchvision import exportable
from .recurrences import WholeRecurrences

ONE_AT_A_TIME = threading.RLock()
"""A lock held while a module or program becomes a graph, since torch's patches and tracing state are the process's."""


def export(
    module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """A module in evaluation as an exported program; the module is left as it was.

    Raises:
        ModelError: `torch.export` refuses it.
    """
    with (
        ONE_AT_A_TIME,
        _refusals(type(module).__name__),
        silent(),
        _in_evaluation(module),
        _plain_results(module),
        exportable(),
        ordinary_sizes(),
        known_numbers(module),
        WholeRecurrences(),
    ):
        return torch.export.export(module, arguments, dict(keywords), dynamic_shapes=dynamic_shapes, strict=False)


def decompose(program: ExportedProgram, name: str, rules: Mapping[Any, Any]) -> ExportedProgram:
    """A program whose operators are taken apart by rules, as far as there are some.

    Raises:
        ModelError: torch can't take one apart.
    """
    with _refusals(name), ordinary_sizes(), silent():
        return program.run_decompositions(dict(rules))


@contextmanager
def _refusals(name: str) -> Generator[None]:
    try:
        yield
    except Exception as error:  # export raises whatever the module's own code raises on symbolic inputs
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ModelError(
            f"torch.export refuses {name}: {reason}\n"
            "Make its forward free of data-dependent Python control flow, or export it to ONNX and give that"
        ) from error


def distinct(arguments: Any) -> Any:
    """The arguments with no tensor in them twice: export would take such inputs for one and the same."""
    seen: set[int] = set()

    def own(argument: Any) -> Any:
        if not isinstance(argument, torch.Tensor) or id(argument) not in seen:
            seen.add(id(argument))
            return argument
        return argument.clone()

    return pytree.tree_map(own, arguments)


@contextmanager
def silent() -> Generator[None]:
    """Silence torch while it exports: its warnings, logs and dumps of half-made graphs add nothing to its error."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _in_evaluation(module: nn.Module) -> Generator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@contextmanager
def _plain_results(module: nn.Module) -> Generator[None]:
    """Let a module return a flat list of its results while this lasts; objects unknown to export become their tensors.

    A container of a library's own need not be put together again in the order in which it was taken apart.
    """
    forward: Callable[..., Any] = module.forward
    own = vars(module).get("forward")

    @wraps(forward)
    def plain(*arguments: Any, **keywords: Any) -> Any:
        return [_plain(leaf) for leaf in pytree.tree_leaves(forward(*arguments, **keywords))]

    module.forward = plain
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _plain(result: Any) -> Any:
    is_known = result is None or isinstance(result, torch.Tensor | torch.SymInt | int | float | str)
    return result if is_known else list(_tensors(result, set()))


def _tensors(thing: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """The tensors that an object holds, in the order of its attributes."""
    if isinstance(thing, torch.Tensor):
        yield thing
        return
    if isinstance(thing, nn.Module | type) or id(thing) in seen:
        return
    seen.add(id(thing))
    if is_dataclass(thing):
        parts: Any = [getattr(thing, field.name) for field in fields(thing)]
    else:
        parts = getattr(thing, "__dict__", thing)
    leaves = pytree.tree_leaves(parts)
    for leaf in leaves if leaves != [thing] else ():
        yield from _tensors(leaf, seen)
