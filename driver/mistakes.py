"""All that is wrong with what a recipe names, found before anything takes its time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..backends import find_backend
from ..ir.errors import PlanishError, TargetError
from ..passes.distillation.distill import Distillation
from ..passes.order import flattened
from ..passes.training.fine_tune import FineTuning
from ..targets.load import load_target
from .data import find_data
from .evaluation import find_metric
from .model import find_model
from .recipe import Recipe
from .user_code import find_function, isolated_imports


def check_names(recipe: Recipe) -> None:
    """Hold what a recipe names to what there is: passes, target, backend, metric, model and data.

    Raises:
        PlanishError: something is missing or unknown; all that is, is told, and the first says of which kind it is.
    """
    if faults := mistakes(recipe):
        raise type(faults[0])(told(recipe.name, [str(fault) for fault in faults]))


def mistakes(recipe: Recipe) -> list[PlanishError]:
    """What is wrong with what a recipe names."""
    with isolated_imports(recipe.folder):
        faults = [fault for look in _looks(recipe) if (fault := _fault(look)) is not None]
    return list({str(fault): fault for fault in faults}.values())  # a file that can't be imported is named twice


def told(name: str, faults: Sequence[str]) -> str:
    """Mistakes as one message: a lone one as it is, several a line each."""
    if len(faults) == 1:
        return f"{name}: {faults[0]}"
    return "\n".join([f"{name} has {len(faults)} mistakes:", *(f"  {fault}" for fault in faults)])


def _looks(recipe: Recipe) -> Iterator[Callable[[], Any]]:
    folder, data = recipe.folder, recipe.data
    yield lambda: find_model(recipe.model, folder)
    for reference in dict.fromkeys(filter(None, (data.calibration, data.evaluation))):
        yield lambda reference=reference: find_data(reference, folder)
    if data.evaluation is not None:
        yield lambda: find_metric(data.metric, folder)
    yield lambda: load_target(recipe.machine)
    if recipe.backend != "auto":
        yield lambda: _check_backend(recipe.backend)
    yield recipe.pipeline
    yield lambda: _check_training(recipe)


def _check_training(recipe: Recipe) -> None:
    """Look for the teachers and losses that passes name."""
    for step in flattened(recipe.pipeline()):
        if isinstance(step, Distillation) and step.teacher:
            find_model(step.teacher, recipe.folder)
        if isinstance(step, FineTuning) and ":" in step.loss:
            find_function(step.loss, recipe.folder)


def _check_backend(name: str) -> None:
    if missing := find_backend(name).available():
        raise TargetError(f"backend {name} is not installed: {missing}")


def _fault(look: Callable[[], Any]) -> PlanishError | None:
    try:
        look()
    except PlanishError as error:
        return error
    return None
