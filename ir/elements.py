"""Elements of tensors as text, exactly: each float is the shortest decimal that reads back to the same bits."""

import json
import math

import numpy as np

from .types import DType, TensorType


def format_elements(array: np.ndarray) -> list[str]:
    """The elements in row-major order; those of a complex tensor as real and imaginary parts in turn."""
    dtype = DType.of(array.dtype)
    flat = array.reshape(-1)
    match dtype:
        case DType.string:
            return [json.dumps(str(element)) for element in flat]
        case DType.bool:
            return ["true" if element else "false" for element in flat]
        case DType.complex64 | DType.complex128:
            return format_elements(flat.view(_part(dtype).numpy))
        case _ if dtype.is_integer:
            return [str(int(element)) for element in flat]
        case _:
            return [_format_float(flat[index : index + 1]) for index in range(flat.size)]


def parse_elements(texts: list[str], type: TensorType) -> np.ndarray:
    """The tensor with these elements.

    Raises:
        ValueError: an element doesn't belong to the type, or there are too many or too few.
    """
    if type.dtype in (DType.complex64, DType.complex128):
        part = _part(type.dtype)
        pairs = parse_elements(texts, TensorType(part, (len(texts),)))
        flat = pairs.view(type.dtype.numpy) if len(texts) % 2 == 0 else pairs
    else:
        flat = _parse_flat(texts, type.dtype)
    shape = type.static_shape
    if flat.size != np.prod(shape, dtype=int):
        raise ValueError(f"{len(texts)} elements don't make a {type}")
    return flat.reshape(shape)


def _part(dtype: DType) -> DType:
    return DType.float32 if dtype is DType.complex64 else DType.float64


def _format_float(element: np.ndarray) -> str:
    """The text of an array's only element; a NaN that isn't the usual one shows its bits."""
    number, bits = float(element[0]), element.tobytes()
    if number != number:
        usual = _round(math.nan, element.dtype).tobytes() == bits
        return "nan" if usual else f"0x{int.from_bytes(bits, 'little'):x}"
    candidates = (float(f"{number:.{digits}g}") for digits in range(1, 17))
    return repr(next((short for short in candidates if _round(short, element.dtype)[0] == element[0]), number))


def _round(number: float, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # a shortened decimal may lie beyond the largest finite number
        return np.array([number]).astype(dtype)


def _parse_flat(texts: list[str], dtype: DType) -> np.ndarray:
    if dtype is DType.string:
        return np.array([_parse_string(text) for text in texts], dtype=object)
    if dtype is DType.bool:
        return np.array([_parse_bool(text) for text in texts], dtype=bool)
    if dtype.is_integer:
        return _parse_integers(texts, dtype)
    parts = [_parse_float(text, dtype) for text in texts]
    return np.concatenate(parts) if parts else np.empty(0, dtype.numpy)


def _parse_string(text: str) -> str:
    if not text.startswith('"'):
        raise ValueError(f"{text} is not a string")
    return json.loads(text)


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text} is neither true nor false")
    return text == "true"


def _parse_integers(texts: list[str], dtype: DType) -> np.ndarray:
    low, high = dtype.limits
    integers = [int(text) for text in texts]
    wrong = next((integer for integer in integers if not low <= integer <= high), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no {dtype}")
    wide = np.array(integers, dtype=np.uint64 if dtype is DType.uint64 else np.int64)
    return wide.astype(dtype.numpy)


def _parse_float(text: str, dtype: DType) -> np.ndarray:
    if not text.startswith("0x"):
        return _round(float(text), dtype.numpy)
    bits = int(text, 16)
    if bits.bit_length() > dtype.bits:
        raise ValueError(f"{text} is no {dtype}")
    return np.frombuffer(bits.to_bytes(dtype.numpy.itemsize, "little"), dtype.numpy)
