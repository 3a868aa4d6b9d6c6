"""Random graphs that TVM is held to, many of them compiled together."""

from collections.abc import Iterator

from random_graphs.checks import State, after_all
from random_graphs.graphs import Sample, recipe, sample
from random_graphs.runtime import shortened
from random_graphs.together import Here, run_together
from workers import Outcome, check_all

__all__ = ["check_graphs", "is_fine", "rounds", "shortened"]

_BATCH, _ROUND = 32, 512
"""Graphs that are compiled together, and those after which processes are started anew."""
_SECONDS = 900.0
"""The time after which a batch counts as hung; its graphs are tried one by one."""
_ALONE = "equal when alone"


def is_fine(what: str) -> bool:
    """Whether a graph of a class has not failed."""
    return what in ("equal", "refused", _ALONE)


def rounds(first: int, cases: int, jobs: int) -> Iterator[dict[int, Outcome]]:
    """Yield the outcomes of graphs by number, some hundred at a time."""
    size = min(cases, _BATCH)
    for begin in range(first, first + cases, _ROUND):
        names = [str(number) for number in range(begin, min(begin + _ROUND, first + cases), size)]
        outcomes = check_all(check_graphs, names, tuple(map(str, range(size))), jobs, _SECONDS)
        yield {int(name) + int(offset): found for name, row in outcomes.items() for offset, found in row.items()}


def check_graphs(first: str, offsets: tuple[str, ...]) -> dict[str, Outcome]:
    """Hold TVM to the interpreter on graphs, after all passes; one that comes alone is compiled as users' are.

    Args:
        first: the number that the others are counted from.
        offsets: what is added to it.
    """
    outcomes: dict[str, Outcome] = {}
    samples: dict[str, Sample] = {}
    states: dict[str, State] = {}
    for offset in offsets:
        try:
            given = sample(recipe(int(first) + int(offset)))
            states[offset], samples[offset] = State(after_all(given), given.outputs), given
        except Exception as error:  # of whatever kind: a pass may fall over a graph
            outcomes[offset] = ("wrong", f"{type(error).__name__}: {error}")
    graphs = {offset: state.graph for offset, state in states.items()}
    answers = run_together(samples, graphs) if len(offsets) > 1 else {}
    for offset, state in states.items():
        outcomes[offset] = _held(samples[offset], state, Here(answers.get(offset)))
    return outcomes


def _held(given: Sample, state: State, tvm: Here) -> Outcome:
    try:
        tvm.hold_last(given, state)
    except Exception as error:  # of whatever kind
        return "wrong", f"{type(error).__name__}: {error}"
    if tvm.refused:
        return "refused", tvm.refused[0]
    if tvm.strange:
        return "wrong", tvm.strange[0]
    return (_ALONE if tvm.was_asked else "equal"), ""
