"""Features for classical models (`ai.onnx.ml`): scaling, encoding, choosing."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..traits import Trait
from ..types import DType
from .dtypes import to_torch, torch_dtype
from .ml_scores import Floats, Texts, Whole
from .narrow import bytewise
from .registry import operator
from .texts import STRING, from_texts, to_texts


@operator("ai.onnx.ml::ArrayFeatureExtractor")
def array_feature_extractor(x: Tensor, indices: Tensor) -> Tensor:
    """Columns of the last axis, as a matrix even for a single row."""
    y = x.index_select(-1, indices.reshape(-1))
    return y.unsqueeze(0) if x.ndim == 1 else y


@operator("ai.onnx.ml::Binarizer", traits=Trait.ELEMENTWISE)
def binarizer(x: Tensor, *, threshold: float = 0.0) -> Tensor:
    return (x > threshold).to(x.dtype)


@operator("ai.onnx.ml::FeatureVectorizer")
def feature_vectorizer(*inputs: Tensor, inputdimensions: Whole = None) -> Tensor:
    rows = [x.float().reshape(x.shape[0] if x.ndim > 1 else 1, -1) for x in inputs]
    widths = inputdimensions or [row.shape[1] for row in rows]
    return torch.cat([row[:, :width] for row, width in zip(rows, widths, strict=True)], 1)


@operator("ai.onnx.ml::Imputer")
def imputer(
    x: Tensor,
    *,
    imputed_value_floats: Floats = None,
    imputed_value_int64s: Whole = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Tensor:
    """Puts a value, or that of the column, in the place of what stands for a missing one."""
    is_float = x.is_floating_point()
    values = torch.tensor((imputed_value_floats if is_float else imputed_value_int64s) or (), dtype=x.dtype)
    missing = x == replaced_value_int64
    if is_float:
        missing = torch.isnan(x) if math.isnan(replaced_value_float) else x == replaced_value_float
    return torch.where(missing, values.to(x.device), x)


@operator("ai.onnx.ml::Normalizer")
def normalizer(x: Tensor, *, norm: str = "MAX") -> Tensor:
    order = {"MAX": torch.inf, "L1": 1, "L2": 2}[norm]
    x = x.float()
    return x / torch.linalg.vector_norm(x, order, -1, keepdim=True).clamp(min=1e-30)


@operator("ai.onnx.ml::Scaler")
def scaler(x: Tensor, *, offset: Floats = None, scale: Floats = None) -> Tensor:
    return (x.float() - torch.tensor(offset or (0.0,))) * torch.tensor(scale or (1.0,))


def _encoded_type(x: Tensor, *, cats_int64s: Whole = None, cats_strings: Texts = None, zeros: int = 1) -> Tensor:
    return x.new_empty((*x.shape, len(cats_strings or cats_int64s or ())), dtype=torch.float32)


@operator("ai.onnx.ml::OneHotEncoder", types=_encoded_type)
def one_hot_encoder(x: Tensor, *, cats_int64s: Whole = None, cats_strings: Texts = None, zeros: int = 1) -> Tensor:
    """A last axis of categories; without `zeros` every element must be of one."""
    known = from_texts(cats_strings, (len(cats_strings),)) if cats_strings else torch.tensor(cats_int64s or ())
    y = _is_equal(x.unsqueeze(-1), known.to(x.device)).float()
    if not zeros and not y.any(-1).all():
        raise ValueError("an element is of none of the categories")
    return y


_is_equal = bytewise(torch.eq)


def _encoded(x: Tensor, table: dict[Hashable, Any], default: Any, dtype: DType) -> Tensor:
    """Each element looked up in a table."""
    elements: Sequence[Hashable] = to_texts(x) if x.dtype is STRING else x.reshape(-1).tolist()
    return to_torch(np.array([table.get(_key(element), default) for element in elements], dtype.numpy)).reshape(x.shape)


def _key(element: Hashable) -> Hashable:
    """What equal elements share: NaN counts as equal to itself."""
    return None if isinstance(element, float) and math.isnan(element) else element


def _mapped_type(x: Tensor, *, cats_int64s: Whole = None, **attributes: object) -> Tensor:
    return torch.empty_like(x, dtype=torch.int64 if x.dtype is STRING else STRING)


@operator("ai.onnx.ml::CategoryMapper", types=_mapped_type, traits=Trait.ELEMENTWISE)
def category_mapper(
    x: Tensor,
    *,
    cats_int64s: Whole = None,
    cats_strings: Texts = None,
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> Tensor:
    """Numbers for names, or names for numbers."""
    if x.dtype is STRING:
        return _encoded(x, dict(zip(cats_strings or (), cats_int64s or (), strict=True)), default_int64, DType.int64)
    return _encoded(x, dict(zip(cats_int64s or (), cats_strings or (), strict=True)), default_string, DType.string)


def _values(tensor: np.ndarray | None, strings: Texts, whole: Whole, floats: Floats) -> tuple[Sequence[Any], DType]:
    """What one of the four attributes holds, and its element type."""
    if tensor is not None:
        texts = tensor.dtype.kind in "OUS"
        return [_text(item) if texts else item for item in tensor.reshape(-1).tolist()], DType.of(tensor.dtype)
    if strings is not None:
        return strings, DType.string
    return (whole, DType.int64) if whole is not None else (floats or (), DType.float32)


def _text(item: str | bytes) -> str:
    return item.decode() if isinstance(item, bytes) else item


def _label_type(
    x: Tensor,
    *,
    values_floats: Floats = None,
    values_int64s: Whole = None,
    values_strings: Texts = None,
    values_tensor: np.ndarray | None = None,
    **attributes: object,
) -> Tensor:
    _, dtype = _values(values_tensor, values_strings, values_int64s, values_floats)
    return torch.empty_like(x, dtype=torch_dtype(dtype))


@operator("ai.onnx.ml::LabelEncoder", types=_label_type, traits=Trait.ELEMENTWISE)
def label_encoder(
    x: Tensor,
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: np.ndarray | None = None,
    keys_floats: Floats = None,
    keys_int64s: Whole = None,
    keys_strings: Texts = None,
    keys_tensor: np.ndarray | None = None,
    values_floats: Floats = None,
    values_int64s: Whole = None,
    values_strings: Texts = None,
    values_tensor: np.ndarray | None = None,
) -> Tensor:
    """A value for each key, and a default for what is no key."""
    keys, _ = _values(keys_tensor, keys_strings, keys_int64s, keys_floats)
    values, dtype = _values(values_tensor, values_strings, values_int64s, values_floats)
    default: Any = default_float if dtype.is_float else default_int64
    default = default_string if dtype is DType.string else default
    if default_tensor is not None:
        (default,), _ = _values(default_tensor, None, None, None)
    return _encoded(x, dict(zip(map(_key, keys), values, strict=True)), default, dtype)
