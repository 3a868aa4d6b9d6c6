"""Budgets that no pass can meet: they are refused before any pass takes its time."""

import numpy as np

from ..backends import Backend
from ..ir.drafts import workspace
from ..ir.errors import BudgetError, CheckError, TargetError
from ..ir.graph import Graph
from .job import Job
from .lowering import lower
from .measurement import interleaved
from .results import Measured


def refuse_hopeless(job: Job) -> None:
    """Refuse a budget that even a model misses which takes the job's inputs and computes nothing of them.

    Such a model is built and timed for each backend. Nothing is refused where this machine can't run what is built, or
    where a backend can't take the inputs.

    Raises:
        BudgetError: its latency or its size is more than the job's budget, whatever the backend.
    """
    budget = job.recipe.budget
    if job.is_for_another_machine or (budget.latency is None and budget.size is None):
        return
    told: list[str] = []
    for backend in job.backends:
        try:
            excesses = _floor(job, backend).excesses(budget)
        except (TargetError, CheckError):  # the same is told of the model itself
            continue
        if not excesses:
            return
        told.append(f"in {backend.name} {'; '.join(excesses)}")
    if told:
        raise BudgetError(
            "no pass can meet the budget: of a model that takes these inputs and computes nothing of them, "
            f"{', and '.join(told)}"
        )


def _floor(job: Job, backend: Backend) -> Measured:
    """What a model that computes nothing of a job's inputs takes."""
    with workspace() as scratch:
        model = lower(_hollow(job.source), backend, job.target, scratch / backend.name)
        sample = next(job.samples())
        (latency,) = interleaved([lambda: model.executable.run(sample)])
        return Measured(backend.name, latency, model.size, None)


def _hollow(graph: Graph) -> Graph:
    """A graph with the same inputs whose only output is a number."""
    hollow = Graph(graph.name)
    for value in graph.inputs:
        hollow.add_input(value.name, value.type)
    hollow.outputs["nothing"] = hollow.add_constant(np.zeros(1, np.float32))
    return hollow
