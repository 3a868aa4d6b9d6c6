"""What is checked can be said as a text, as settings, or as the object itself."""

from dataclasses import replace

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import CheckError, UsageError
from planish.ir.graph import Graph
from planish.passes.base import Effect
from planish.passes.check import NumericCheck
from planish.passes.verification import DEFAULT, Verification

TEXTS = {
    "numeric": DEFAULT,
    "structure": Verification("structure"),
    "numeric,rtol=0.01,probes=4": Verification(rtol=0.01, probes=4),
    "numeric,atol=0.0,edges=false": Verification(atol=0.0, edges=False),
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_read_and_written(text: str) -> None:
    assert Verification.of(text) == TEXTS[text]
    assert str(TEXTS[text]) == text
    assert Verification.of(f" {text.replace(',', ' , ')}") == TEXTS[text]


def test_settings_by_name() -> None:
    assert Verification.of({"level": "none"}) == Verification("none")
    assert Verification.of({"rtol": "1%", "edges": "false"}) == Verification(rtol=0.01, edges=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("numbers", "the setting level of verify can't be 'numbers'; did you mean 'numeric'"),
        ("numeric,rtool=1", "verify has no setting 'rtool'; did you mean 'rtol'"),
        ("numeric,0.1", "verify takes settings such as rtol=0.01 behind the level, not '0.1'"),
        ({"rtol": 2}, "rtol of verify must be at least 0 and below 1, not 2"),
        ({"probes": 0}, "probes of verify must be at least 1 and at most 1000, not 0"),
        ({"probes": "many"}, "probes of verify takes a whole number, not 'many'"),
    ],
)
def test_what_makes_no_sense_is_told(given, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Verification.of(given)


def test_tolerances_and_edges_are_kept(graph_of, tested) -> None:
    graph: Graph = graph_of("(%x: float32[2, 4]) { %y: float32[2, 4] = Identity(%x) return y = %y }")
    other = graph.clone()
    other.outputs["y"] = Builder(other).Mul(other.outputs["y"], np.float32(1.005))
    probes = [{"x": np.ones((2, 4), np.float32)}]
    with pytest.raises(CheckError, match="beyond rtol 0.001 and atol 0.0001"):
        NumericCheck(graph, probes).check(other, tested(Effect.ROUNDING))
    loose = NumericCheck(graph, probes, Verification(rtol=0.01))
    loose.check(other, tested(Effect.ROUNDING))
    assert len(loose.probes) == 2
    assert len(NumericCheck(graph, probes, replace(DEFAULT, edges=False)).probes) == 1
