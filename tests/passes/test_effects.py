"""Every pass that declares itself exact or rounding is, on graphs at random, alone and after others.

The graphs are of all operators (see `random_graphs`). Each is given to every pass, and some to ONNX Runtime and to TVM
as well, which takes longest. `pytest tests/passes/test_effects.py -k keep -s --graphs 2000` takes the first 2,000, and
`--graphs 2000:4000` the next, all of them in TVM too. What fails is printed as the smallest recipe that still does,
which `sample` makes a graph of, and that graph's text.
"""

import inspect
from functools import cache
from importlib import import_module
from types import ModuleType

import pytest
from random_graphs.cases import names_by_kind
from random_graphs.checks import FOR_TVM, KEEPING, State, passed, shuffled
from random_graphs.graphs import Recipe, Sample, recipe, sample, smallest
from random_graphs.runtime import Runtime, runtime

from planish.ir.graph import nested_nodes
from planish.passes.base import Pass

SHARES = {"onnxruntime": (4, 0), "tvm": (20, 7)}
"""One in how many graphs is run by a backend too, and the first that is; TVM runs all that were asked for by number."""


MANY = 200
"""The graphs among which a mistake has to be found."""

SHOWING = (191, 184, 188, 102, 40, 83, 192, 75, 37, 135, 126)
"""Numbers of small graphs that show the planted mistakes, tried first: making a graph is what takes time."""


def hold(made_of: Recipe, onnxruntime: Runtime | None, tvm: Runtime | None) -> Sample:
    """Hold all passes to their word on one graph, alone and in some order, and backends to what it computes."""
    given = sample(made_of)
    first = state = State(given.graph, given.outputs)
    states = {step: passed(step, given, first) for step in KEEPING}
    steps = [step for step in KEEPING if onnxruntime is None or step is not FOR_TVM]
    for step in shuffled(steps, given):
        state = passed(step, given, state) or state
    if onnxruntime is not None:
        onnxruntime.hold(given, [*((step.name, states[step]) for step in steps if states[step]), ("all", state)])
    if tvm is not None:
        tvm.hold_last(given, state)
    return given


@pytest.mark.parametrize(("few", "share"), [(8, 0.15), pytest.param(100, 0.6, marks=pytest.mark.slow)])
def test_passes_keep_what_a_graph_computes(graphs: range | None, few: int, share: float) -> None:
    """The few graphs that are tried by default hold more than a share of all operators."""
    failed: dict[int, str] = {}
    found: set[str] = set()
    with runtime("onnxruntime") as onnxruntime, runtime("tvm") as tvm:

        def fault(number: int, made_of: Recipe) -> str:
            try:
                chosen = {backend: number % share == first for backend, (share, first) in SHARES.items()}
                on_tvm = graphs is not None or chosen["tvm"]
                given = hold(made_of, onnxruntime if chosen["onnxruntime"] else None, tvm if on_tvm else None)
            except Exception as error:  # of whatever kind: a pass may fall over a graph
                return f"{type(error).__name__}: {error}"
            found.update(node.operator for node in nested_nodes(given.graph))
            return ""

        for number in graphs or range(few):
            if reason := fault(number, recipe(number)):
                failed[number] = reason
        if failed:
            number = next(iter(failed))
            small = smallest(recipe(number), lambda other: bool(fault(number, other)))
            pytest.fail(f"graphs {list(failed)}; of {number}, {small} is enough: {fault(number, small)}", pytrace=False)
    known = {kind.partition("_expanded")[0] for kind in names_by_kind()}
    print(f"{len(found & known)} of {len(known)} operators")
    for backend in (onnxruntime, tvm):
        print(backend)
    if graphs is None:
        assert len(found & known) > share * len(known), sorted(known - found)
        assert onnxruntime.agreed > len(onnxruntime.refused) + len(onnxruntime.strange)
        assert tvm.agreed


# -- mistakes that were planted

PLANTED = [
    # (where, what is right, what is wrong)
    (
        "cleanup.remove_identities",
        "are_alike(source, node.outputs[0]) else",
        "source.dtype is node.outputs[0].dtype else",
    ),
    ("cleanup.remove_identities", "not np.any(widths)", "not np.any(widths[1:])"),
    ("cleanup.remove_identities", '"Div": _neutral(1, both_sides=False)', '"Div": _neutral(1, both_sides=True)'),
    ("cleanup.remove_identities", "np.all(steps == 1)", "np.all(steps)"),
    ("cleanup.remove_identities", "source.dtype is node.output.dtype", "source.dtype.bits >= node.output.dtype.bits"),
    ("cleanup.remove_identities", "node.outputs[0], same)", "node.outputs[0], node.inputs[0])"),
    ("cleanup.cse", "return node.operator, attributes,", "return node.operator,"),
    ("cleanup.cse", "setdefault(node.inputs, node)", "setdefault(frozenset(node.inputs), node)"),
    ("cleanup.cse", "seen[constant.type]", "seen[None]"),
    ("cleanup.dce", "returned = set(graph.outputs.values())", "returned = ()"),
    ("cleanup.dce", "is_dead = not any(", "is_dead = not all("),
    ("cleanup.dce", "and constant not in returned", ""),
    (
        "cleanup.fold_constants",
        "evaluate_constant(node)",
        "(array.astype('float32') for array in evaluate_constant(node))",
    ),
    ("cleanup.fold_constants", "for value in node.inputs)", "for value in node.inputs[:2])"),
    ("cleanup.fold_constants", '{"fold": count}', '{"fold": 0}'),
    ("cleanup.simplify_shapes", "and source.shape[index] == dim else", "else"),
    ("cleanup.simplify_shapes", ".reshape(value.type.static_shape)", ""),
    ("fusion.fuse_batch_norm", '"ConvTranspose": 1', '"ConvTranspose": 0'),
    ("fusion.fuse_batch_norm", "np.sqrt(variance.astype(np.float64) +", "(variance.astype(np.float64) +"),
    ("fusion.fuse_bias", "size != 1 for axis, size", "False for axis, size"),
    ("fusion.fuse_layer_norm", ".tolist() not in ([-1], [rank - 1])", ".size != 1"),
]


def planted(where: str, right: str, wrong: str) -> Pass:
    """The pass of a module, with a mistake in it."""
    module = import_module(f"planish.passes.{where}")
    source = inspect.getsource(module)
    assert source.count(right) == 1
    copy = ModuleType(module.__name__)
    copy.__package__ = module.__package__
    exec(source.replace(right, wrong), vars(copy))
    return next(
        kind()
        for kind in vars(copy).values()
        if isinstance(vars(kind).get("name") if isinstance(kind, type) else None, str)
    )


@cache
def focused(number: int) -> Sample:
    """A graph of little but what passes look for."""
    return sample(recipe(number, cases=0.1))


@pytest.mark.parametrize(
    ("where", "right", "wrong"),
    [
        pytest.param(*row, id=f"{row[0]}: {row[2]}", marks=[pytest.mark.slow] if number else [])
        for number, row in enumerate(PLANTED)
    ],
)
def test_a_mistake_is_found(where: str, right: str, wrong: str) -> None:
    step = planted(where, right, wrong)
    with pytest.raises(Exception):  # noqa: B017 -- the pass may fall over its own mistake
        for given in map(focused, [*SHOWING, *(number for number in range(MANY) if number not in SHOWING)]):
            passed(step, given, State(given.graph, given.outputs))
