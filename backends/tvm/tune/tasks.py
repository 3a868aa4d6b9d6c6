"""The measurements that find the fastest ways to generate a model's kernels.

Ways take turns with the best one so far, in the order of their estimated times.
"""

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tvm import IRModule, relax, tirx
from tvm.ir import GenericConst, GlobalVar, Type
from tvm.sym import Analyzer

from ....ir.errors import CheckError
from ....ir.graph import Graph
from ....ir.types import DType
from ....passes.legalization.origins import Origins
from ....targets import Target
from ..codegen.library import Tell
from ..kernels.machine import Machine
from ..kernels.vectors import known
from ..llvm import llvm_target
from ..relax.configs import TuningPolicy, TuningTask, Way
from ..relax.emitter import Emitter
from ..relax.lowering import Walk
from ..runtime.program import array_of, use_threads
from .database import TuningRecord
from .measure import Arguments, Measurement, compiled

_LEAST_GAIN = 1.02
"""The least ratio of times for which another way is taken."""
_MOST_WAYS = 20
"""The most ways of a kernel that are measured."""
_LEAST_SHARE = 0.003
"""The least share of the time of all kernels: kernels that take less stay as they are."""
_FAR = 1 << 26
"""Bytes of weights that are so many that none stays in a cache until it is read again."""
_ROUNDING = 0.02
"""The relative difference that results of two ways may have, one of which may round to bytes elsewhere."""


class Tuning:
    """The kernels of a model that can be generated in several ways, on this machine."""

    def __init__(
        self,
        legal: Graph,
        origins: Origins,
        target: Target,
        sizes: Mapping[str, int],
        tell: Tell = lambda *_: None,
    ) -> None:
        """Find the kernels.

        Args:
            legal: the graph as it would be compiled.
            origins: the operators that refusals name.
            target: a target like this machine.
            sizes: the sizes of the inputs' symbolic dimensions.
            tell: called for each kernel before it is compiled, and after.
        """
        survey = _Survey()
        self._tell = tell
        self._emitter = Emitter(legal, Machine.of(target), survey)
        Walk(legal, origins, self._emitter).module()
        self._kind = llvm_target(target)
        self._analyzer = Analyzer()
        for name, size in sizes.items():
            symbol = self._emitter.size(name)
            assert isinstance(symbol, tirx.Var)
            self._analyzer.bind(symbol, tirx.const(size, "int64"))
        self._memory = min(sum(constant.data.nbytes for constant in legal.constants.values()), _FAR)
        self._tasks = {key: tasks for key, tasks in survey.tasks.items() if self._is_sized(survey.calls[key])}
        use_threads(target.threads)

    @property
    def kernels(self) -> set[str]:
        """The keys of the kernels whose sizes are known."""
        return set(self._tasks)

    def findings(self, known: Collection[str], until: float) -> Iterator[TuningRecord]:
        """Yield findings, first for the kernels that take the most time.

        Args:
            known: kernels that need not be measured.
            until: the `time.monotonic` after which no other kernel is begun.

        Raises:
            CheckError: a kernel gives something else if it is generated in another way.
        """
        seconds = {key: self._measurements(one, one.ways[:1])[0].seconds() for key, (one, *_) in self._tasks.items()}
        parts = {key: seconds[key] * len(tasks) for key, tasks in self._tasks.items()}
        for key in sorted(parts, key=lambda key: -parts[key]):
            share = parts[key] / sum(parts.values())
            if share < _LEAST_SHARE or time.monotonic() > until:
                return
            if key not in known:
                yield self._found(self._tasks[key][0], share)

    def _found(self, task: TuningTask[Way], share: float) -> TuningRecord:
        """Find the best of a kernel's ways."""
        (first,) = self._measurements(task, task.ways[:1])
        best, taken = first, task.ways[0]
        together = os.cpu_count() or 1
        for start in range(1, min(len(task.ways), _MOST_WAYS), together):
            ways = task.ways[start : start + together]
            for way, measurement in zip(ways, self._measurements(task, ways), strict=True):
                if (error := measurement.error(first)) > _ROUNDING:
                    raise CheckError(f"{task.layer}: {task.key} is off by {error:.1e} with {asdict(way)}")
                if measurement.speedup_over(best) > _LEAST_GAIN:
                    best, taken = measurement, way
        gain = 1.0 if best is first else best.speedup_over(first)
        if gain < _LEAST_GAIN:  # it was chance
            taken, gain = task.ways[0], 1.0
        return TuningRecord(task.key, task.layer, share, asdict(task.ways[0]), asdict(taken), gain)

    def _measurements(self, task: TuningTask[Way], ways: Sequence[Way]) -> list[Measurement]:
        """Compile kernels side by side, and return a measurement of each."""
        calls = [task.call(way) for way in ways]
        self._emitter.plain.clear()  # it would keep the weights of every way
        module, name = self._emitter.block.get(), f"{task.layer}: {task.key}"
        self._tell(name, True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            runs = list(pool.map(lambda call: compiled(_kernel(module, call), self._kind), calls))
        self._tell(name, False)
        return [Measurement(run, self._arguments(call), self._memory) for run, call in zip(runs, calls, strict=True)]

    def _arguments(self, call: relax.Call) -> Arguments:
        """Return random arguments for a call, and its constants."""
        random = np.random.default_rng(0)
        given = _given(call)
        weights = {place: array_of(it.value) for place, it in enumerate(given) if isinstance(it, GenericConst)}
        inputs = [None if place in weights else self._random(it.ty, random) for place, it in enumerate(given)]
        return Arguments(inputs, weights, [self._random(type, random) for type in call.ty_args])

    def _random(self, type: Type, random: np.random.Generator) -> np.ndarray:
        assert isinstance(type, relax.TensorType)
        dtype, shape = DType[str(type.dtype)], [known(size) for size in self._known(type)]
        numbers = random.standard_normal(shape, np.float32) if dtype.is_float else random.integers(0, 100, shape)
        return numbers.astype(dtype.numpy)

    def _is_sized(self, call: relax.Call) -> bool:
        """Whether all sizes of a call are known: those that data decide aren't."""
        types = [*(it.ty for it in _given(call)), *call.ty_args]
        return all(isinstance(size, tirx.IntImm) for type in types for size in self._known(type))

    def _known(self, type: Type) -> list[tirx.Expr]:
        """Return a shape in numbers, from the sizes of the inputs' dimensions."""
        assert isinstance(type, relax.TensorType)
        assert isinstance(type.shape, relax.ShapeExpr)
        return [self._analyzer.simplify(size) for size in type.shape.values]


def _kernel(module: IRModule, call: relax.Call) -> tirx.PrimFunc:
    """Return the kernel that is called."""
    variable = call.args[0]
    assert isinstance(variable, GlobalVar)
    kernel = module[variable]
    assert isinstance(kernel, tirx.PrimFunc)
    return kernel


def _given(call: relax.Call) -> Sequence[relax.Expr]:
    """Return the arguments that a kernel is called with."""
    given = call.args[1]
    assert isinstance(given, relax.Tuple)
    return given.fields


@dataclass(frozen=True, slots=True)
class _Survey(TuningPolicy):
    """Choices by estimated times, which record the kernels that can be generated in several ways.

    Attributes:
        tasks: the tasks of kernels that are generated alike, by their key.
        calls: the call of the first kernel of each key, in the way with the least estimated time.
    """

    tasks: dict[str, list[TuningTask[Any]]] = field(default_factory=dict[str, list[TuningTask[Any]]])
    calls: dict[str, relax.Call] = field(default_factory=dict[str, relax.Call])

    def made(self, task: TuningTask[Way]) -> relax.Call:
        call = task.call(task.ways[0])
        if len(task.ways) > 1:
            self.tasks.setdefault(task.key, []).append(task)
            self.calls.setdefault(task.key, call)
        return call
