"""The tables speak of what changed in the direction in which it did."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from planish.driver import report
from planish.driver.measurement import Latency
from planish.driver.report import ConsoleReporter
from planish.driver.results import Artifact, Measured
from planish.driver.words import folded_lines

SLOWER = "warning: the artifact is slower than the untouched model"


@pytest.mark.parametrize(
    ("seconds", "size", "words", "warned"),
    [
        (0.5, 500, ["2.00x smaller", "2.00x (2.00-2.00) faster"], False),
        (1.01, 1010, ["1.01x larger", "1.01x (1.01-1.01) slower"], False),  # noise
        (1.001, 1001, ["the same"], False),
        (4.0, 4000, ["4.00x larger", "4.00x (4.00-4.00) slower"], True),
    ],
)
def test_the_summary_says_faster_or_slower(seconds: float, size: int, words: list[str], warned: bool) -> None:
    before, after = (
        Measured("onnxruntime", Latency(np.full(3, time)), count, None)
        for time, count in ((1.0, 1000), (seconds, size))
    )
    file = io.StringIO()
    ConsoleReporter(Console(file=file, width=160)).built(Artifact(Path("dist"), None, before, after, (), threads=2))
    assert [word for word in words if word not in file.getvalue()] == []
    assert (SLOWER in file.getvalue()) == warned


def test_an_artifact_says_what_it_is() -> None:
    before, after = (Measured("tvm", Latency(np.full(3, time)), size, None) for time, size in ((1.0, 1000), (0.5, 500)))
    built = Artifact(Path("dist"), None, before, after, (), threads=2)
    assert repr(built) == "<Artifact dist: tvm, 2.00x smaller, 2.00x (2.00-2.00) as fast>"
    assert built._repr_html_().startswith("<code>&lt;Artifact")


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("quantize{required=false,skip=layers.*}", 34, ["quantize{required=false,", "skip=layers.*}"]),
        ("encoder.layer.0.attention", 18, ["encoder.layer.0.", "attention"]),
        ("LayerNormalization", 10, ["LayerNorma", "lization"]),
        ("Gemm", 10, ["Gemm"]),
    ],
)
def test_long_names_go_on_in_another_line(name: str, width: int, lines: list[str]) -> None:
    assert list(folded_lines(name, width)) == lines


def test_a_log_tells_now_and_then_how_far_long_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    reporter = ConsoleReporter(Console(file=file, width=160))
    for done in range(8):
        now[0] += 10.0
        reporter.progress("fitting layers", done, 8)
    assert file.getvalue() == "fitting layers: 2 of 8\nfitting layers: 5 of 8\n"
