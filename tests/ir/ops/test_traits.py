"""Traits are what the standard's own cases show of each operator, and nobody keeps lists of operators beside them."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from random_graphs.cases import Fragment, fragment, names_by_kind

import planish
from planish.ir.errors import ModelError
from planish.ir.graph import Node
from planish.ir.interpreter import Interpreter
from planish.ir.operators import has_trait
from planish.ir.ops import operators
from planish.ir.traits import Trait
from planish.ir.types import Container

ROOT = Path(planish.__file__).parent
PLACE_BY_PLACE = {
    "DequantizeLinear": "its parameters lie along an axis",
    "EyeLike": "it reads sizes alone",
    "OptionalGetElement": "its input is a container",
    "QLinearConv": "the one case has windows of one pixel",
    "Trilu": "which elements it keeps depends on their places",
}
"""Operators that change no other elements than those that were changed, and aren't elementwise."""
LISTED = {
    "backends/tvm/relax/preconditions.py": "which of TVM's kernels are right about empty tensors",
    "frontends/onnx_check.py": "which operators hold a body by an attribute of that name",
    "frontends/torch/lower_embedding.py": "the reductions by the number of an ATen mode",
    "ir/analysis/cost.py": "rules of the analysis",
    "ir/analysis/finiteness.py": "rules of the analysis",
    "ir/analysis/dependencies.py": "rules of the analysis",
    "ir/opset.py": "which operators a version of the standard changed",
    "backends/tvm/support.py": "what TVM's backend does with them",
    "passes/quantization/logarithms.py": "which operators hand on how large a value is",
    "passes/quantization/plan.py": "which operators have integer kernels that rescale",
    "passes/quantization/scale_groups.py": "what a positive factor passes through",
}
"""Files with lists of operators that say something else than what the operators compute."""


_MOST = 2
"""Cases of each operator."""


def operators_with(trait: Trait) -> frozenset[str]:
    """The operators of planish that have one of the traits."""
    return frozenset(name for name, operator in operators().items() if operator.traits & trait)


def _cases() -> Iterator[tuple[Node, Fragment]]:
    """Some cases of one node with one output, which is a float, an integer or a truth value."""
    for kind, names in names_by_kind().items():
        for name in names[:: max(1, len(names) // _MOST)] if kind in operators() else ():
            part = fragment(name)
            if part is None or not all(isinstance(array, np.ndarray) for array in part.feeds.values()):
                continue
            nodes, outputs = list(part.graph.nodes), list(part.graph.outputs.values())
            is_tensor = len(outputs) == 1 and outputs[0].type.container is Container.NONE
            if len(nodes) == 1 and is_tensor and outputs[0].dtype.numpy.kind in "fiub":
                yield nodes[0], part


def _run(part: Fragment, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return next(iter(Interpreter(part.graph).run(feeds).values()))


def _alike(shapes: list[tuple[int, ...]], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(*shapes) == shape
    except ValueError:
        return False


def _is_place_by_place(part: Fragment, random: np.random.Generator) -> bool | None:
    """Whether the output stays where no operand was changed; None where the case can't tell."""
    whole, shapes = _run(part, part.feeds), [array.shape for array in part.feeds.values() if array.size]
    if whole.size < 2:
        return None
    if not _alike(shapes, whole.shape):
        return False if all(shapes) else None
    is_changed, feeds = np.zeros(whole.shape, bool), dict[str, np.ndarray]()
    for name, array in part.feeds.items():
        mask = random.random(array.shape) < (0.5 if array.ndim and array.size else 0)
        others = random.permutation(array.reshape(-1)).reshape(array.shape)
        feeds[name] = np.where(mask, others, array)
        is_changed |= bool(array.size) and np.broadcast_to(mask, whole.shape)
    return np.array_equal(_run(part, feeds)[~is_changed], whole[~is_changed], equal_nan=whole.dtype.kind == "f")


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Fragment]]:
    found = defaultdict[str, list[Fragment]](list)
    for node, part in _cases():
        found[node.operator].append(part)
    return found


@pytest.mark.wide
def test_elementwise_operators_are_those_that_keep_what_was_not_changed(cases: dict[str, list[Fragment]]) -> None:
    random, found = np.random.default_rng(0), set[str]()
    seen = set[str]()
    for operator, parts in cases.items():
        answers = [_is_place_by_place(part, random) for part in parts for _ in range(3)]
        if known := [answer for answer in answers if answer is not None]:
            seen.add(operator)
            if all(known):
                found.add(operator)
    assert len(seen) > 120
    assert found - PLACE_BY_PLACE.keys() == operators_with(Trait.ELEMENTWISE) & seen


@pytest.mark.wide
def test_commutative_operators_take_their_operands_in_any_order(cases: dict[str, list[Fragment]]) -> None:
    held = set[str]()
    for operator in sorted(operators_with(Trait.BROADCASTING)):
        for part in cases[operator]:
            names = list(part.feeds)
            turned = dict(zip(names, [part.feeds[name] for name in reversed(names)], strict=True))
            if len({(array.dtype, array.shape) for array in turned.values()}) > 1:
                continue
            try:
                is_alike = np.array_equal(_run(part, part.feeds), _run(part, turned))
            except ModelError:  # integers are divided by 0
                is_alike = False
            held |= {operator} if is_alike else set()
            assert is_alike or not has_trait(operator, Trait.COMMUTATIVE), operator
    assert operators_with(Trait.COMMUTATIVE) & cases.keys() <= held


@pytest.mark.wide
def test_moving_operators_give_elements_of_their_inputs(cases: dict[str, list[Fragment]]) -> None:
    for operator in sorted(operators_with(Trait.MOVING) & cases.keys()):
        for part in cases[operator]:
            known = np.concatenate([[0], *(array.reshape(-1) for array in part.feeds.values())])
            assert np.isin(_run(part, part.feeds), known).all(), operator


@pytest.mark.wide
def test_reshaping_operators_keep_the_order(cases: dict[str, list[Fragment]]) -> None:
    for operator in sorted(operators_with(Trait.RESHAPING)):
        assert cases[operator]
        for part in cases[operator]:
            first = next(iter(part.feeds.values()))
            assert np.array_equal(_run(part, part.feeds).reshape(-1), first.reshape(-1)), operator


def test_nobody_keeps_a_list_of_operators_that_have_something_in_common() -> None:
    """Lists drift: one lacked ten of the functions that act on each element, and channels around them stayed."""
    found = {path for path, names in _lists() if len(names & operators().keys()) > 2}
    assert found == LISTED.keys()


def _lists() -> Iterator[tuple[str, set[str]]]:
    outside = ("tests", "benchmarks", "examples", "docs", "build", "dist")
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts[0] in outside or parts[0].startswith(".") or parts[:2] == ("ir", "ops"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Set | ast.Tuple | ast.List):
                yield path.relative_to(ROOT).as_posix(), {it.value for it in node.elts if isinstance(it, ast.Constant)}
