"""Types of values: element types, dimensions that may be symbolic, tensor types."""

import builtins
import re
from enum import Enum
from functools import cache, lru_cache
from threading import Lock
from typing import Any, ClassVar, NoReturn, Self
from weakref import WeakValueDictionary

import numpy as np

from .dims import Dim, symbols
from .errors import ModelError, TargetError


class DType(Enum):
    """An element type, named as numpy names it; the value is its code in ONNX's `TensorProto.DataType`."""

    float32 = 1
    uint8 = 2
    int8 = 3
    uint16 = 4
    int16 = 5
    int32 = 6
    int64 = 7
    string = 8
    bool = 9
    float16 = 10
    float64 = 11
    uint32 = 12
    uint64 = 13
    complex64 = 14
    complex128 = 15
    bfloat16 = 16
    float8_e4m3fn = 17
    float8_e4m3fnuz = 18
    float8_e5m2 = 19
    float8_e5m2fnuz = 20
    uint4 = 21
    int4 = 22
    float4_e2m1fn = 23
    float8_e8m0fnu = 24
    uint2 = 25
    int2 = 26
    float6_e2m3fn = 27
    float6_e3m2fn = 28

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype; that of ml_dtypes for what numpy lacks.

        An element of fewer than 8 bits has a byte of its own there, with its code in the low bits.

        Raises:
            TargetError: ml_dtypes is not installed, which an artifact whose inputs and outputs are numpy's can do
                without.
        """
        return _numpy_dtype(self)

    @property
    def is_foreign(self) -> builtins.bool:
        """Whether numpy lacks the type, and ml_dtypes adds it."""
        return self.numpy.isbuiltin != 1

    @property
    def is_float(self) -> builtins.bool:
        return self.name.startswith(("float", "bfloat"))

    @property
    def is_half(self) -> builtins.bool:
        """Whether it is one of the two floats of 16 bits."""
        return self in (DType.float16, DType.bfloat16)

    @property
    def at_least_single(self) -> "DType":
        """The type that is computed in where 16 bits are too few: float32 for floats of 16 bits, others as they are."""
        return DType.float32 if self.is_half else self

    @property
    def is_integer(self) -> builtins.bool:
        return self.name.startswith(("int", "uint"))

    @property
    def is_unsigned(self) -> builtins.bool:
        """Whether it is an integer type without negative numbers."""
        return self.name.startswith("uint")

    @property
    def is_trainable(self) -> builtins.bool:
        """Whether it is a float of 16 bits or more, to be computed with; narrower ones are quantized, like integers."""
        return self.is_float and self.bits > 8

    @property
    def bits(self) -> int:
        """The width of one element where it is packed as ONNX files pack it, in bits."""
        return _bits(self)

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest number of an integer type."""
        return (0, 2**self.bits - 1) if self.is_unsigned else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    @property
    def largest(self) -> float:
        """The greatest finite number of a float type, whose negative is the least."""
        from ml_dtypes import finfo  # numpy's own lacks bfloat16

        return float(finfo(self.numpy).max)

    @classmethod
    def of(cls, dtype: np.dtype) -> "DType":
        """The element type of a numpy dtype.

        Raises:
            TypeError: ONNX has no such element type.
        """
        return _dtype_of(dtype)

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=1 << 9)
def _symbols(dims: tuple[Dim, ...]) -> frozenset[str]:
    return frozenset().union(*map(symbols, dims))


@cache
def _bits(dtype: DType) -> int:
    width = re.search(r"\d+", dtype.name)
    return int(width[0]) if width else dtype.numpy.itemsize * 8


@cache
def _dtype_of(dtype: np.dtype) -> DType:
    name = "string" if dtype.kind in "OUS" else dtype.name  # which numpy takes long to make
    if name not in DType.__members__:
        raise TypeError(f"no tensor element type corresponds to numpy's {dtype}")
    return DType[name]


@cache
def _numpy_dtype(dtype: DType) -> np.dtype:
    if dtype is DType.string:
        return np.dtype(object)
    try:
        return np.dtype(dtype.name)
    except TypeError:
        pass
    try:
        import ml_dtypes  # only models that hold such tensors pay for the import
    except ImportError as error:
        raise TargetError(
            f"numpy has no {dtype}, and ml_dtypes, which has, is not installed: pip install ml-dtypes"
        ) from error
    return np.dtype(getattr(ml_dtypes, dtype.name))


class Container(Enum):
    """What a value keeps tensors in; `NONE` for a tensor itself. A map has one under each key."""

    NONE = ""
    SEQUENCE = "sequence"
    OPTIONAL = "optional"
    OPTIONAL_SEQUENCE = "optional sequence"
    MAPS_OF_NUMBERS = "sequence map_int64"
    MAPS_OF_TEXTS = "sequence map_string"


_MAKING = Lock()


class TensorType:
    """The type of a tensor, or of what keeps tensors: a sequence, an optional one.

    There is one object of each, as of MLIR's types, so that they are compared and hashed by identity.

    Attributes:
        dtype: the type of the elements.
        dims: ints and symbolic expressions such as `batch` or `sequence + 1`; None where not even the rank is known.
        container: the kind of container that keeps tensors of this element type and these dimensions.
    """

    __slots__ = ("__weakref__", "container", "dims", "dtype")
    _all: ClassVar[WeakValueDictionary[tuple[DType, tuple[Dim, ...] | None, Container], Self]] = WeakValueDictionary()
    dtype: DType
    dims: tuple[Dim, ...] | None
    container: Container

    def __new__(cls, dtype: DType, dims: tuple[Dim, ...] | None, container: Container = Container.NONE) -> Self:
        key = (dtype, dims, container)
        return cls._all.get(key) or cls._made(*key)

    @classmethod
    def _made(cls, *key: Any) -> Self:
        with _MAKING:
            type = cls._all.get(key)
            if type is None:  # no other thread has been faster
                type = super().__new__(cls)
                for name, value in zip(("dtype", "dims", "container"), key, strict=True):
                    object.__setattr__(type, name, value)
                cls._all[key] = type
        return type

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a type doesn't change: make one with another {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorType, (self.dtype, self.dims, self.container)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The dimensions of a tensor whose rank is known.

        Raises:
            ModelError: it isn't, or this is no tensor.
        """
        if self.dims is None or self.container is not Container.NONE:
            raise ModelError(f"a value of type {self} has no shape that is known before it runs")
        return self.dims

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_ranked(self) -> bool:
        """Whether this is a tensor of a known rank."""
        return self.dims is not None and self.container is Container.NONE

    def has_rank(self, rank: int) -> bool:
        """Whether this is a tensor that is known to have so many axes."""
        return self.is_ranked and len(self.shape) == rank

    @property
    def is_static(self) -> bool:
        return self.is_ranked and all(isinstance(dim, int) for dim in self.shape)

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that occur in the dimensions."""
        return _symbols(self.dims or ())

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as ints.

        Raises:
            ValueError: a dimension is symbolic.
        """
        shape = tuple(dim for dim in self.shape if isinstance(dim, int))
        if len(shape) != len(self.shape):
            raise ValueError(f"{self} has symbolic dimensions")
        return shape

    @classmethod
    def of(cls, array: np.ndarray) -> Self:
        return cls(DType.of(array.dtype), array.shape)

    def resized(self, dims: tuple[Dim, ...] | None) -> "TensorType":
        """The type with other dimensions, or none that are known."""
        return TensorType(self.dtype, dims, self.container)

    def within(self, container: Container) -> "TensorType":
        """The type of a container of such tensors, or with `NONE` of a tensor in this one."""
        return TensorType(self.dtype, self.dims, container)

    def __str__(self) -> str:
        dims = "..." if self.dims is None else ", ".join(map(str, self.dims))
        text = f"{self.dtype}[{dims}]"
        for word in reversed(self.container.value.split()):
            text = f"{word}({text})"
        return text
