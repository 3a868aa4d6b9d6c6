"""Export a module: what `torch.export` needs of a module, its inputs and its outputs."""

import logging
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ...ir.errors import ModelError
from .call import Call
from .compat_torch import known_numbers, ordinary_sizes
from .compat_torchvision import exportable
from .recurrences import WholeRecurrences
from .results import plain_results

ONE_AT_A_TIME = threading.RLock()
"""A lock held while a module or program becomes a graph, since torch's patches and tracing state are the process's."""


def export(call: Call) -> tuple[ExportedProgram, list[str]]:
    """A module in evaluation as an exported program, and the names of its results; the module is left as it was.

    Raises:
        ModelError: `torch.export` refuses it, or it fails on its example inputs by itself.
    """
    with (
        ONE_AT_A_TIME,
        _refusals(call.name, lambda error, reason: _explained(call, error, reason)),
        silent(),
        _in_evaluation(call.module),
        plain_results(call.module) as names,
        exportable(),
        ordinary_sizes(),
        known_numbers(call.module),
        WholeRecurrences(),
    ):
        program = torch.export.export(
            call.module, call.arguments, dict(call.keywords), dynamic_shapes=call.dynamic_shapes, strict=False
        )
        return program, names


def _explained(call: Call, error: Exception, reason: str) -> str:
    with silent(), _in_evaluation(call.module):
        return call.explain(error, reason)


def decompose(program: ExportedProgram, name: str, rules: Mapping[Any, Any]) -> ExportedProgram:
    """A program whose operators are taken apart by rules, as far as there are some.

    Raises:
        ModelError: torch can't take one apart.
    """
    with _refusals(name), ordinary_sizes(), silent():
        return program.run_decompositions(dict(rules))


@contextmanager
def _refusals(name: str, explain: Callable[[Exception, str], str] = lambda error, reason: reason) -> Generator[None]:
    try:
        yield
    except Exception as error:  # export raises whatever the module's own code raises on symbolic inputs
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ModelError(explain(error, f"torch.export refuses {name}: {reason}")) from error


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
