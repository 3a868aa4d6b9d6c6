"""Random graphs that backends are held to, many of them compiled together by TVM."""

from collections.abc import Iterator, Mapping, Sequence

from random_graphs.checks import State, after_all, hold_outputs
from random_graphs.graphs import Sample, recipe, sample
from random_graphs.runtime import Runtime, shortened
from random_graphs.together import Here, run_together
from workers import Outcome, Workers

from planish.ir.graph import Graph

_BATCH, _ROUND = 32, 512
"""Graphs that are compiled together, and those after which it is said what was found."""
_MOST = 64
"""Batches after which another process takes the place of one, whose memory grows."""
_BACKENDS = ("onnxruntime", "tvm")
_REFUSED = "refused by"
_UNSPECIFIED, _ROUNDED = "equal but for cases of edges.md", "equal but where rounding decides"


def is_fine(what: str) -> bool:
    """Whether a graph of a class has not failed."""
    return what in ("equal", _UNSPECIFIED, _ROUNDED) or what.startswith(_REFUSED)


def rounds(first: int, cases: int, jobs: int, seconds: float) -> Iterator[dict[int, Outcome]]:
    """Yield the outcomes of graphs by number, some hundred at a time; a batch that takes longer is taken apart."""
    size = min(cases, _BATCH)
    with Workers(check_graphs, jobs, seconds, _MOST) as workers:
        for begin in range(first, first + cases, _ROUND):
            names = [str(number) for number in range(begin, min(begin + _ROUND, first + cases), size)]
            outcomes = workers.check_all(names, tuple(map(str, range(size))))
            yield {int(name) + int(offset): found for name, row in outcomes.items() for offset, found in row.items()}


def check_graphs(first: str, offsets: tuple[str, ...]) -> dict[str, Outcome]:
    """Hold interpreter and backends, after all passes, to what graphs compute before them.

    A graph that comes alone is built as users' are, each backend in a process of its own.

    Args:
        first: the number that the graphs are counted from.
        offsets: the distance of each graph's number from it.
    """
    outcomes: dict[str, Outcome] = {}
    samples: dict[str, Sample] = {}
    graphs: dict[str, dict[str, Graph]] = {}
    rounded: dict[str, list[str]] = {}
    for offset in offsets:
        try:
            given = sample(recipe(int(first) + int(offset)))
            passed = {backend: after_all(given, backend) for backend in _BACKENDS}
            rounded[offset] = [f"passes: {why}" for graph in passed.values() for why in hold_outputs(given, graph)]
            graphs[offset], samples[offset] = passed, given
        except Exception as error:  # of whatever kind: a pass may fall over a graph
            outcomes[offset] = ("wrong", f"{type(error).__name__}: {error}")
    are_many = len(offsets) > 1
    probes = {offset: given.probes for offset, given in samples.items()}
    answers = run_together(probes, {offset: row["tvm"] for offset, row in graphs.items()}) if are_many else {}
    for offset, row in graphs.items():
        runtimes = [Here("onnxruntime"), Here("tvm", answers.get(offset))] if are_many else map(Runtime, _BACKENDS)
        outcomes[offset] = _held(samples[offset], row, list(runtimes), rounded[offset])
    return outcomes


def _held(given: Sample, graphs: Mapping[str, Graph], runtimes: Sequence[Runtime], rounded: Sequence[str]) -> Outcome:
    for runtime in runtimes:
        try:
            runtime.hold_last(given, State(graphs[runtime.backend], given.outputs))
        except Exception as error:  # of whatever kind
            return "wrong", f"{runtime.backend}: {type(error).__name__}: {error}"
        finally:
            runtime.end()
        if runtime.strange:
            return "wrong", f"{runtime.backend} before any pass: {runtime.strange[0]}"
    refused = {runtime.backend: shortened(runtime.refused[0]) for runtime in runtimes if runtime.refused}
    if not refused:
        free = [f"{runtime.backend}: {case}" for runtime in runtimes for case in sorted(set(runtime.unspecified))]
        rounded = [*rounded, *(f"{runtime.backend}: {case}" for runtime in runtimes for case in runtime.rounded)]
        if rounded:
            return _ROUNDED, "\n".join(sorted({*free, *rounded}))
        return (_UNSPECIFIED, "\n".join(free)) if free else ("equal", "")
    return f"{_REFUSED} {' and '.join(refused)}", "\n".join(": ".join(item) for item in refused.items())
