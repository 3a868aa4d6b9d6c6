"""The interface of a backend: it turns a legal graph into files, and files into something that runs."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ..ir.dims import evaluate, is_dim, symbols
from ..ir.errors import ModelError, TargetError, UsageError
from ..ir.suggestion import did_you_mean

if TYPE_CHECKING:  # an artifact is loaded and run with numpy and the runtime alone
    from ..ir.graph import Graph
    from ..passes.base import Pass
    from ..passes.legalization.support import Support
    from ..targets import Target


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of an executable.

    Attributes:
        name: the name of the input or output.
        dtype: numpy's name of the element type.
        shape: the dimensions, ints or symbolic; None where not even the rank is known.
        container: `sequence` for a list of arrays, `optional` for one that may be None; empty for an array.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    container: str = ""

    def __str__(self) -> str:
        shape = "..." if self.shape is None else ", ".join(map(str, self.shape))
        return f"{f'{self.container} of ' if self.container else ''}{self.dtype}[{shape}]"


class Executable(ABC):
    """A compiled model: numpy arrays in, a list of numpy arrays out."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def __call__(self, *arguments: np.ndarray | Mapping[str, np.ndarray], **named: np.ndarray) -> list[np.ndarray]:
        """Run the model on arrays given in order, by input name, or both; or on a dict of them by input name.

        Raises:
            ModelError: an input is missing, unknown, or of the wrong dtype or shape.
        """
        if len(arguments) == 1 and isinstance(arguments[0], Mapping):
            arguments, named = (), {**arguments[0], **named}
        return self.run(bind(self.inputs, cast("tuple[np.ndarray, ...]", arguments), named))

    def __repr__(self) -> str:
        ports = (", ".join(f"{port.name}: {port}" for port in row) for row in (self.inputs, self.outputs))
        return f"<{type(self).__name__} {' -> '.join(ports)}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run the model on arrays by input name, which have been checked."""


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """Seconds of a model's operators in one inference, by the module path of the nodes that they come from.

    Attributes:
        modules: the seconds of all operators.
        conversions: the seconds of QuantizeLinear and DequantizeLinear, as far as they run by themselves.
    """

    modules: Mapping[str, float]
    conversions: Mapping[str, float]


class CompilerWarning(UserWarning):
    """A warning that a backend's compiler failed, and something plainer took the place of what it failed over."""


class Backend(ABC):
    """A runtime that graphs are lowered to.

    Attributes:
        name: the backend's name in recipes and manifests, which is that of its package.
        native: whether what it compiles is machine code of the target.
        tunable: whether `planish tune` measures its kernels.
        tells_times: whether `node_times` is there.
        compiles_slowly: whether a graph takes so long to compile that passes don't compile one only to make sure that
            their change pays.
        weights: the names of files that hold numbers alone: they are checked while they are loaded, other files before.
    """

    name: ClassVar[str]
    native: ClassVar[bool] = False
    tunable: ClassVar[bool] = False
    tells_times: ClassVar[bool] = False
    compiles_slowly: ClassVar[bool] = False
    weights: ClassVar[frozenset[str]] = frozenset()

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Return what an artifact's manifest says of its compilation, beside the graph and the target."""
        return {}

    def tuned(self, database: Path) -> "Backend":
        """Return the backend with what `planish tune` has written.

        Raises:
            UsageError: it isn't tunable, or there is no such file.
            ModelError: the file is broken.
        """
        raise UsageError(
            f"{database} holds tuned kernels for tvm, which {self.name} doesn't use: leave it out, or build for tvm"
        )

    def kernels(self, target: "Target") -> Mapping[str, str]:
        """Return what the backend's own kernels use on a target, by the kind of work, for `planish targets`."""
        return {}

    @abstractmethod
    def available(self) -> str | None:
        """Return None if the runtime is installed, otherwise what to install."""

    def runs(self, directory: Path) -> str | None:
        """Return None if what an artifact runs on is installed or in its folder, otherwise what to install."""
        return self.available()

    def advice(self, graph: "Graph") -> str:
        """Return what the user could change about a model so that it runs faster; empty where nothing is known."""
        return ""

    def doubt(self, directory: Path, features: Collection[str]) -> str:
        """Return why an artifact's results may be others here than on a machine with its target's instruction sets.

        Args:
            directory: the artifact's folder.
            features: the target's instruction sets.
        """
        return ""

    def bundle(self, directory: Path) -> Sequence[Path]:
        """Copy the runtime's libraries into an artifact's folder, as far as it can run on them; return the files.

        Raises:
            TargetError: the backend isn't installed.
        """
        return ()

    def warm_up(self) -> None:  # noqa: B027 -- most have nothing that takes a while
        """Begin in advance what takes a while before anything can be compiled."""

    def strict(self) -> "Backend":
        """Return the backend in a form that fails where its compiler does, instead of falling back."""
        return self

    def support(self) -> "Support":
        """Return what `legalize` has to do for the backend; by default, that it runs all of the standard."""
        from ..passes.legalization.support import Support

        return Support()

    def pipeline(self, target: "Target") -> Sequence["Pass"]:
        """Return the passes after which the backend can compile a graph for a target."""
        from ..passes.legalization.legalize import Legalization

        return [Legalization(backend=self.name)]

    def refuse(  # noqa: B027 -- most know nothing beyond what `legalize` refuses
        self, legal: "Graph", source: "Graph", target: "Target"
    ) -> None:
        """Refuse a graph that can't be compiled, as far as that shows in less time than compiling takes.

        Args:
            legal: the graph as `pipeline` leaves it.
            source: the graph before the pipeline, whose operators refusals name.
            target: the machine to build for.

        Raises:
            TargetError: as `compile` does.
        """

    @abstractmethod
    def compile(self, legal: "Graph", source: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        """Write a graph in the backend's form into a folder; return the files.

        Args:
            legal: the graph as `pipeline` leaves it.
            source: the graph before the pipeline, whose operators refusals name.
            target: the machine to build for.
            directory: the folder, which exists.

        Raises:
            TargetError: an operator that the backend can't run, by name and layer.
        """

    def node_times(
        self, legal: Sequence["Graph"], target: "Target", feeds: Mapping[str, np.ndarray]
    ) -> Sequence[NodeTimes]:
        """Return what the operators of graphs take, one by one, while all of a graph's run, and the graphs in turn.

        Args:
            legal: the graphs as `pipeline` leaves them.
            target: the target, with the number of threads.
            feeds: one inference's inputs.

        Raises:
            TargetError: the backend can't tell.
        """
        raise TargetError(f"{self.name} doesn't tell what single operators take: build with `backend: onnxruntime`")

    def opens(self, directory: Path) -> Collection[str]:
        """Return the names of files that `load` opens, as far as they are known: an artifact has to list them.

        Args:
            directory: the folder, whose listed files have been checked, except for weights.
        """
        return ()

    @abstractmethod
    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        """Make what `compile` wrote runnable; `threads` of None takes the runtime's default.

        Raises:
            ModelError: a file is missing or broken.
        """


def bind(
    ports: Sequence[Port],
    arguments: Sequence[np.ndarray],
    named: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Assign arrays to inputs, in order and by name, and check them.

    Dtypes, ranks and static dimensions must be those of the ports; a symbol must have the same size wherever it occurs.

    Raises:
        ModelError: an input is missing, unknown, given twice, or of the wrong dtype or shape.
    """
    names = [port.name for port in ports]
    if len(arguments) > len(ports):
        raise ModelError(f"the model has {len(ports)} inputs ({', '.join(names)}), but {len(arguments)} were given")
    for name in named:
        if name not in names:
            hint = did_you_mean(name, names) or f"; the inputs are {', '.join(names)}"
            raise ModelError(f"the model has no input {name!r}{hint}")
        if name in names[: len(arguments)]:
            raise ModelError(f"input {name!r} is given both by position and by name")
    given = {**dict(zip(names, arguments, strict=False)), **named}
    sizes: dict[str, int] = {}
    for port in ports:
        if port.name not in given:
            raise ModelError(f"input {port.name!r} ({port}) is missing")
        if not port.container:
            given[port.name] = _plain(port, given[port.name])
            _check(port, given[port.name], sizes)
    for port in ports:
        if not port.container:
            _check_expressions(port, given[port.name], sizes)
    return {port.name: given[port.name] for port in ports}


def _plain(port: Port, given: np.ndarray) -> np.ndarray:
    """Return an array in the machine's own byte order, and without a mask, which nothing here would look at."""
    if isinstance(given, np.ma.MaskedArray):
        raise ModelError(
            f"input {port.name!r} is a masked array: fill it with .filled(VALUE), or give a mask that the model takes"
        )
    array = np.asarray(given)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check(port: Port, array: np.ndarray, sizes: dict[str, int]) -> None:
    """Check an array against its port, and note the sizes of symbols."""
    strings = port.dtype == "string" and array.dtype.kind in "OUS"
    if not strings and _name(array.dtype) != port.dtype:
        raise _unfit(port, array, f"convert it with .astype({port.dtype!r})")
    if port.shape is None:
        return
    if array.ndim != len(port.shape):
        raise _unfit(port, array, "the rank differs")
    for axis, (dim, size) in enumerate(zip(port.shape, array.shape, strict=True)):
        expected = sizes.setdefault(dim, size) if isinstance(dim, str) and dim.isidentifier() else dim
        if isinstance(expected, int) and expected != size:
            if isinstance(dim, str):
                raise _unfit(port, array, f"dimension {axis} must be {dim} = {expected}, as elsewhere in the inputs")
            way = "if it may vary, give it a name where the model is read: in dynamic_shapes, or in the ONNX file"
            raise _unfit(port, array, f"dimension {axis} must be {dim}; {way}")


@cache
def _name(dtype: np.dtype) -> str:
    """Return the name of a dtype from a cache, since numpy spells it anew each time."""
    return dtype.name


def _unfit(port: Port, array: np.ndarray, reason: str) -> ModelError:
    got = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
    return ModelError(f"input {port.name!r} must be {port}, got {got}: {reason}")


def _check_expressions(port: Port, array: np.ndarray, sizes: Mapping[str, int]) -> None:
    """Check dimensions such as `2*length` against the sizes that other dimensions gave their symbols."""
    for axis, (dim, size) in enumerate(zip(port.shape or (), array.shape, strict=False)):
        if not isinstance(dim, str) or not is_dim(dim) or not symbols(dim) <= sizes.keys():
            continue
        if (expected := evaluate(dim, sizes)) != size:
            raise ModelError(f"input {port.name!r}: dimension {axis} must be {dim} = {expected}, got {size}")
