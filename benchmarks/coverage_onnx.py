"""How much of ONNX planish speaks: the standard's own node cases, each through every stage.

    python benchmarks/coverage_onnx.py [--json RESULTS.json] [--only 'test_conv*'] [--skip tvm] [--passes cleanup,fuse]

Each case is imported, verified, printed and parsed back; then it runs in the interpreter, in ONNX Runtime and in TVM,
and each result is held to the standard's own with the standard's tolerance, but for four units in the last place of the
largest number: the standard's own zeros are often rounding errors. With --passes, it goes through these first. Beside
them runs ONNX Runtime by itself, on the case as it is. A case is on each path

    equal     the outputs are the standard's (of what is random, the types and shapes)
    refused   a stage said that it can't, naming the operator or the input
    wrong     other outputs, a graph that doesn't verify or doesn't read back, or a refusal that names neither
    theirs    other outputs in ONNX Runtime, which gives other outputs by itself as well
    crash     anything else: another exception, a dead process, no answer in time
"""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx.backend.test.case.test_case import TestCase as Case
from onnx.backend.test.runner import Runner
from rich.console import Console
from rich.table import Table
from workers import CLASSES, Outcome, Unequal, check_all

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from random_graphs.cases import RANDOM, plain, standard_cases

RUNTIME_ALONE = "onnxruntime alone"
PATHS = ("interpreter", "onnxruntime", "tvm", RUNTIME_ALONE)
SECONDS = 120.0
"""The time after which a case counts as hung."""


# -- one case, in a process of its own


def check_case(case: Case, paths: Sequence[str], passes: str, folder: Path) -> dict[str, Outcome]:
    """The outcome of a case on each path, after some passes."""
    import planish
    from planish.ir.errors import PlanishError
    from planish.ir.graph import nested_nodes

    outcomes: dict[str, Outcome] = {}
    file = folder / "case.onnx"
    onnx.save(case.model, file)
    if RUNTIME_ALONE in paths:
        outcomes[RUNTIME_ALONE] = _alone(case, file)
    ours = [path for path in paths if path != RUNTIME_ALONE]
    try:
        graph = planish.optimize(_imported(file), passes, verify="structure").graph
    except Exception as error:  # all of them are findings
        return outcomes | dict.fromkeys(ours, _classed(case, error, PlanishError))
    written = {node.operator.rpartition("::")[2] for node in nested_nodes(graph)}
    written |= {f"input {value.name!r}" for value in graph.inputs}
    for path in ours:
        try:
            _compare(case, _run(graph, path, _feeds(case), folder / path))
            outcomes[path] = ("equal", "")
        except Exception as error:
            outcomes[path] = _classed(case, error, PlanishError, written)
    if outcomes.get("onnxruntime", ("",))[0] == outcomes.get(RUNTIME_ALONE, ("",))[0] == "wrong":
        outcomes["onnxruntime"] = "theirs", outcomes["onnxruntime"][1]
    return outcomes


def _imported(file: Path) -> Any:
    from planish.frontends.onnx import read_onnx
    from planish.ir.equal import differences
    from planish.ir.text import parse_graph, print_graph, weights
    from planish.ir.verify import verify

    graph = read_onnx(file)
    verify(graph)
    if changed := differences(graph, parse_graph(print_graph(graph), weights(graph))):
        raise Unequal(f"it reads back as another graph: {changed[0]}")
    return graph


def _run(graph: Any, path: str, feeds: dict[str, Any], folder: Path) -> list[Any]:
    from planish.backends import find_backend
    from planish.backends.artifact import load, write_artifact
    from planish.ir.interpreter import Interpreter
    from planish.targets.load import load_target

    if path == "interpreter":
        return list(Interpreter(graph).run(feeds).values())
    write_artifact(folder, graph, find_backend(path), load_target("native"))
    return load(folder).run(feeds)


def _alone(case: Case, file: Path) -> Outcome:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        results = session.run(None, _feeds(case))
    except Exception as error:  # the runtime's exceptions have no base class of their own
        return "refused", _line(error)
    try:
        _compare(case, results)
    except AssertionError as error:
        return "wrong", _line(error)
    return "equal", ""


def _feeds(case: Case) -> dict[str, Any]:
    return {value.name: plain(data) for value, data in zip(case.model.graph.input, case.data_sets[0][0], strict=True)}


def _compare(case: Case, results: Sequence[Any]) -> None:
    expected, results = _arrays([plain(data) for data in case.data_sets[0][1]]), _arrays(results)
    if any(fnmatchcase(case.name, pattern) for pattern in RANDOM):
        found, wanted = ([(array.dtype, array.shape) for array in row] for row in (results, expected))
        assert found == wanted, f"{found} instead of {wanted}"
        return
    half = any(isinstance(array, np.ndarray) and array.dtype == np.float16 for array in expected)
    rtol = max(case.rtol, 2**-9) if half else case.rtol  # two units in the last place, which the runner gives bfloat16
    atol = max([case.atol, *map(_last_places, expected)])
    Runner.assert_similar_outputs(expected, _comparable(expected, results), rtol, atol)


def _arrays(outputs: Sequence[Any]) -> list[Any]:
    """The outputs with sequences as so many arrays: the standard's runner can't compare sequences of numbers."""
    return [array for held in outputs for array in (held if isinstance(held, list) else [held])]


def _last_places(array: Any) -> float:
    """Four units in the last place of the largest number."""
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        return 0.0
    finite = np.abs(array[np.isfinite(array)])
    return float(4 * np.finfo(array.dtype).eps * finite.max(initial=0.0))


def _comparable(expected: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """The results as the standard's runner takes them: strings as objects, like its own."""
    return [
        result.astype(object) if isinstance(wanted, np.ndarray) and wanted.dtype == object else result
        for wanted, result in zip(expected, results, strict=True)
    ]


def _classed(case: Case, error: Exception, refusal: type[Exception], after: AbstractSet[str] = frozenset()) -> Outcome:
    """What an error counts as; a refusal names an operator of the case, one that passes wrote for it, or an input."""
    if isinstance(error, AssertionError | Unequal):
        return "wrong", _line(error)
    if not isinstance(error, refusal):
        return "crash", f"{type(error).__name__}: {_line(error)}"
    before = {node.op_type for node in (*_nodes(case.model.graph), *_function_nodes(case.model))}
    return ("refused" if any(name in str(error) for name in before | after) else "wrong"), _line(error)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _function_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in model.functions:
        yield from function.node


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


# -- all cases, by processes that may die


def check_named(name: str, paths: tuple[str, ...], passes: str) -> dict[str, Outcome]:
    """The outcome of the case of a name on each path."""
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        return check_case(standard_cases()[name], paths, passes, Path(folder))


def main(
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[str, typer.Option(help="A glob of the names of cases.")] = "*",
    skip: Annotated[list[str] | None, typer.Option(help="A path to leave out; may be repeated.")] = None,
    passes: Annotated[str, typer.Option(help="A pipeline that cases go through first.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 2,
) -> None:
    """Count the standard's node cases that planish gets right, on every path."""
    paths = tuple(path for path in PATHS if path not in (skip or ()))
    names = [name for name in standard_cases() if fnmatchcase(name, only)]
    outcomes = check_all(partial(check_named, passes=passes), names, paths, jobs, SECONDS)
    if results is not None:
        results.write_text(json.dumps({name: outcomes[name] for name in sorted(outcomes)}, indent=1) + "\n")
    _report(outcomes, paths)


def _report(outcomes: dict[str, dict[str, Outcome]], paths: Sequence[str]) -> None:
    console = Console()
    kinds = (*CLASSES, "theirs")
    table = Table("path", *kinds, title=f"{len(outcomes)} node cases of onnx {onnx.__version__}")
    for path in paths:
        counts = Counter(outcome[path][0] for outcome in outcomes.values())
        table.add_row(path, *(str(counts[kind]) for kind in kinds))
    console.print(table)
    if RUNTIME_ALONE in paths and "onnxruntime" in paths:
        alone = [name for name, outcome in outcomes.items() if outcome[RUNTIME_ALONE][0] == "equal"]
        both = sum(outcomes[name]["onnxruntime"][0] == "equal" for name in alone)
        console.print(
            f"Of the {len(alone)} cases that ONNX Runtime passes by itself, it passes {both} through planish."
        )
    for name, outcome in sorted(outcomes.items()):
        for path, (kind, detail) in outcome.items():
            if kind in ("wrong", "crash") and path != RUNTIME_ALONE:
                console.print(f"{kind} {path} {name}: {detail}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
