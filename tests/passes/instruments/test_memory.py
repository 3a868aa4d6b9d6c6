"""The peak of each pass, which is over once the pass is."""

import io
import os
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from planish.passes.base import Effect, Pass, PassResult
from planish.passes.instruments.memory import Memory
from planish.passes.manager import PassManager


@dataclass(frozen=True)
class Hold(Pass):
    """Holds so many megabytes while it runs."""

    name: ClassVar[str] = "hold"
    effect: ClassVar[Effect] = Effect.EXACT
    size: int = 0

    def run(self, graph, context) -> PassResult:
        return PassResult(misses=[str(np.ones(self.size * 1_000_000, np.uint8).sum())])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks can't be reset here")
def test_each_pass_has_its_own_peak(graph_of, context) -> None:
    source, stream = graph_of("(%x: float32[2]) { %y: float32[2] = Relu(%x) return y = %y }"), io.StringIO()
    steps = [Hold(size=size) for size in (0, 300, 0)]
    PassManager(steps, [Memory(stream)], "none").run(source, context(source))
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"memory in .*Hold\{size=300\}: .*B, (2[5-9]|3\d)\d MB more", lines[1])  # others may shrink
    assert not any(re.search(r"\d{3} MB more", line) for line in (lines[0], lines[2]))
