"""The tables speak of what changed in the direction in which it did."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from planish.driver.measurement import Latency
from planish.driver.report import summary_table
from planish.driver.results import Artifact, Measured


@pytest.mark.parametrize(
    ("seconds", "size", "words"),
    [
        (0.5, 500, ["2.00x smaller", "2.00x (2.00-2.00) faster"]),
        (4.0, 4000, ["4.00x larger", "4.00x (4.00-4.00) slower"]),
    ],
)
def test_the_summary_says_faster_or_slower(seconds: float, size: int, words: list[str]) -> None:
    before, after = (
        Measured("onnxruntime", Latency(np.full(3, time)), count, None)
        for time, count in ((1.0, 1000), (seconds, size))
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(Artifact(Path("dist"), None, before, after, (), threads=2)))
    printed = console.file.getvalue()
    assert [word for word in words if word not in printed] == []
