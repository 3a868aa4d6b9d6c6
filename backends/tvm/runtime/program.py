"""Compiled models as TVM's runtime runs them, and arrays as its tensors."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Container, Sequence
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from ....ir.types import DType
from .libraries import check_mount, runtime

if TYPE_CHECKING:
    from tvm_ffi import Function, Module, Tensor

LIBRARY = "model.so"
"""The file of an artifact that holds the kernels."""
_CPU, _POOLED = 1, 2
"""TVM's numbers of the device and of the allocator that keeps memory for the next call."""
ALIGNMENT = 64
"""Bytes that kernels expect tensors to be aligned to."""
_POOL = threading.local()
"""The number of threads in TVM's pool for calls of this thread: `threads`, once it was set."""
_SPOKEN = frozenset(
    map(
        np.dtype,
        ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)
"""Element types that numpy and TVM exchange as they are; others go as bytes, slower than a small kernel."""
_NAMES = frozenset(dtype.name for dtype in _SPOKEN)
_SMALL = 1 << 16
"""Bytes up to which results are always copied: the library's own constants may be among them."""


class Program:
    """A library's `main` with its weights.

    Threads may call it side by side: each call has a virtual machine to itself.

    Attributes:
        threads: the number of threads that a call runs on; None for as many as TVM takes.
        library: the loaded library.
        weights: the weights that `main` is given behind the inputs.
    """

    def __init__(self, library: Path, weights: Sequence["Tensor"], threads: int | None) -> None:
        """Load the library; each call runs on the given number of threads, or by default on as many as TVM takes.

        Raises:
            UsageError: the library lies where nothing may be run.
        """
        check_mount(library)
        self.threads = threads
        self.library = runtime().load_module(str(library), keep_module_alive=False)  # it is unloaded with the program
        self.weights = tuple(weights)
        self._idle: SimpleQueue[_Machine] = SimpleQueue()
        self._idle.put(_Machine(self.library))

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the model on inputs in order; errors of TVM's C++ are raised."""
        if self.threads is not None:
            use_threads(self.threads)
        try:
            machine = self._idle.get_nowait()
        except Empty:
            machine = _Machine(self.library)
        try:
            return machine(inputs, self.weights)
        finally:
            self._idle.put(machine)


class Stopwatch:
    """Times the kernels of a program, each by itself.

    Args:
        program: the program, which is left as it is.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._machine = _Machine(program.library)
        self._begun = 0.0
        self._taken: list[tuple[str, float]] = []
        self._machine.watch(self._see)

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Run the model once; return what the virtual machine has called, with the seconds, in order."""
        if self._program.threads is not None:
            use_threads(self._program.threads)
        self._taken = []
        self._machine(inputs, self._program.weights)
        return self._taken

    def _see(self, _function: object, symbol: str, begins: bool, *_: object) -> int:
        if begins:
            self._begun = time.perf_counter()
        else:
            self._taken.append((symbol, time.perf_counter() - self._begun))
        return 0  # go on


class _Machine:
    """A virtual machine, with memory for inputs that are not aligned: allocating it anew costs more than copying."""

    def __init__(self, library: "Module") -> None:
        machine = library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        self._main = machine["main"]
        self._set_instrument = machine["set_instrument"]
        self._memory: dict[int, np.ndarray] = {}

    def __call__(self, inputs: Sequence[np.ndarray], weights: Sequence["Tensor"]) -> list[np.ndarray]:
        arguments = [*(self._tensor(*numbered) for numbered in enumerate(inputs)), *weights]
        kept = {argument.data_ptr() for argument in arguments}
        return [_own(array_of(result), kept) for result in self._main(*arguments)]

    def watch(self, see: Callable[..., int]) -> None:
        """Have a function called before and after whatever `main` calls."""
        self._set_instrument(see)

    def _tensor(self, index: int, array: np.ndarray) -> "Tensor":
        if _is_placed(array):
            return tensor_of(array)
        memory = self._memory.get(index)
        if memory is None or memory.size < array.nbytes:
            memory = self._memory[index] = _aligned(array.nbytes)
        placed = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        placed[...] = array
        return tensor_of(placed)


def is_loaded(library: Path) -> bool:
    """Whether the dynamic loader holds the library in a file, or one by its name."""
    loader = ctypes.CDLL(None)
    loader.dlopen.restype, loader.dlclose.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    held = loader.dlopen(os.fsencode(library), os.RTLD_LAZY | os.RTLD_NOLOAD)
    if held is not None:
        loader.dlclose(held)
    return held is not None


def use_threads(number: int) -> None:
    """Let calls from this thread run on so many threads.

    TVM makes a pool for each thread that calls it, and adds no workers later. The pool has as many as processors are
    given, to which it doesn't bind them here; where none are given, half as many as the machine has.
    """
    if getattr(_POOL, "threads", None) != number:
        processors = [str(place) for place in range(max(number, os.cpu_count() or 1))]
        _function("runtime.config_threadpool")(0, number, processors)
        _POOL.threads = number


def tensor_of(array: np.ndarray) -> "Tensor":
    """Return an array as a tensor, which shares its memory if that is aligned."""
    if array.dtype in _SPOKEN and _is_placed(array) and array.size:  # numpy's empty ones have steps that TVM refuses
        return runtime().from_dlpack(array)
    return as_tensor(np.ascontiguousarray(array).reshape(-1).view(np.uint8), array.shape, str(DType.of(array.dtype)))


def as_tensor(octets: np.ndarray, shape: Sequence[int], dtype: str) -> "Tensor":
    """Return a row of bytes as a tensor of a type, which shares its memory if that is aligned.

    Numpy doesn't know all of TVM's element types.
    """
    if not _is_placed(octets):
        memory = _aligned(octets.size)
        memory[:] = octets
        octets = memory
    return _viewed(runtime().from_dlpack(octets), shape, dtype)


def array_of(tensor: "Tensor") -> np.ndarray:
    """Return a tensor as an array that shares its memory."""
    if str(tensor.dtype) in _NAMES:
        return np.from_dlpack(tensor)
    dtype = DType[str(tensor.dtype)].numpy
    octets = np.from_dlpack(_viewed(tensor, (np.prod(tensor.shape, dtype=int) * dtype.itemsize,), "uint8"))
    return octets.view(dtype).reshape(tensor.shape)


def _own(array: np.ndarray, others: Container[int]) -> np.ndarray:
    """Return an array that shares no memory with a model's inputs and constants."""
    return array.copy() if array.nbytes <= _SMALL or array.ctypes.data in others else array


def _viewed(tensor: "Tensor", shape: Sequence[int], dtype: str) -> "Tensor":
    return _function("runtime.TVMTensorCreateView")(tensor, runtime().Shape(shape), dtype, 0)


def _is_placed(array: np.ndarray) -> bool:
    """Whether a tensor can share the memory of an array."""
    flags = array.flags
    return flags.writeable and flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0


def _aligned(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size]


@cache
def _function(name: str) -> "Function":
    return runtime().get_global_func(name)
