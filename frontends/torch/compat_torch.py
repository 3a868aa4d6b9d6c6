"""What Python asks while torch exports, and torch won't answer: patches of torch 2.13 and later.

Each holds while something is exported, in one thread at a time (`export.ONE_AT_A_TIME`). `test_compat_torch.py` has a
test for each that fails once torch no longer needs it.

Numbers are kept in buffers, to be saved with the weights: a stride, a padding. A graph is made for one set of weights,
and so they are known.

Libraries ask sizes whether they are 1, or more than 1, to choose among ways that give the same. Of symbolic sizes of
inputs torch says that they are neither 0 nor 1, and it takes the way for all the others; of sizes that only the data
tells it refuses to say anything. Here both are answered alike, unless a model asks whether there is anything: often
there isn't.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv, uninteresting_files

TORCH = str(Path(torch.__file__).parent)
"""The folder of torch's own code."""


@contextmanager
def ordinary_sizes() -> Generator[None]:
    """Let whatever holds for all sizes from 2 on hold for sizes that only the data tells, as long as this lasts.

    Torch's own guards that are oblivious of 0 and 1 serve its operators, and not what a model's code asks
    (https://github.com/pytorch/pytorch/pull/118579, https://github.com/pytorch/pytorch/issues/120288).
    """
    evaluate = ShapeEnv.evaluate_expr

    def ask(self: ShapeEnv, orig_expr: sympy.Basic, *arguments: Any, **options: Any) -> sympy.Basic:
        try:
            return evaluate(self, orig_expr, *arguments, **options)
        except GuardOnDataDependentSymNode:
            answer = _answer(self, orig_expr)
            if answer is None:
                raise
            return answer

    uninteresting_files().add(ask.__code__.co_filename)  # torch looks beyond these for an `assert` that asks
    ShapeEnv.evaluate_expr = ask
    try:
        yield
    finally:
        ShapeEnv.evaluate_expr = evaluate


def _answer(environment: ShapeEnv, expression: sympy.Basic) -> sympy.Basic | None:
    """True or false where all of the expression's symbols are sizes; None where it depends on more than that."""
    symbols = [symbol for symbol in expression.atoms(sympy.Symbol) if symbol not in environment.backed_var_to_val]
    ranges = [environment.var_to_range[symbol] for symbol in symbols]
    if not all(span.lower >= 0 and span.upper > 2 for span in ranges):  # flags and numbers of other kinds
        return None
    known = set(environment.size_like)
    environment.size_like.update(symbols)
    try:
        answer = _ordinary(environment, expression)
        is_about_nothing = any(
            _ordinary(environment, expression.xreplace({symbol: sympy.Integer(0)}))
            != answer
            == _ordinary(environment, expression.xreplace({symbol: sympy.Integer(1)}))
            for symbol in symbols
        )
    finally:
        environment.size_like.intersection_update(known)
    return None if is_about_nothing and not _is_asked_by_torch(environment) else answer


def _ordinary(environment: ShapeEnv, expression: sympy.Basic) -> sympy.Basic | None:
    """What an expression is for all sizes from 2 on."""
    if expression in (sympy.true, sympy.false):
        return expression
    return environment._maybe_evaluate_static(expression, size_oblivious=True)


def _is_asked_by_torch(environment: ShapeEnv) -> bool:
    """Whether it is torch that asks, which has shorter ways to the same for nothing."""
    frame = environment._get_user_frame()
    return frame is not None and frame.f_code.co_filename.startswith(TORCH)


@contextmanager
def known_numbers(module: nn.Module) -> Generator[None]:
    """Let a module's whole numbers be known, as long as this lasts and the module doesn't write to them.

    Torch makes fake tensors of all buffers, which know no numbers
    (https://github.com/pytorch/pytorch/issues/107879, https://github.com/pytorch/pytorch/issues/136642).
    """
    numbers = {
        id(buffer): buffer for buffer in module.buffers() if buffer.numel() == 1 and not buffer.is_floating_point()
    }
    convert = FakeTensorMode.from_tensor

    def remember(self: FakeTensorMode, tensor: Tensor, **options: Any) -> FakeTensor:
        fake = convert(self, tensor, **options)
        if numbers.get(id(tensor)) is tensor and options.get("source") is None:
            fake.constant = tensor.detach().clone()
            self.fake_tensor_converter.add_constant_storage_mapping(fake)
        return fake

    FakeTensorMode.from_tensor = remember
    try:
        yield
    finally:
        FakeTensorMode.from_tensor = convert
