"""Maps of classical models (`ai.onnx.ml`): Python's dicts."""

from torch import Tensor

from .ml_scores import Texts, Whole
from .registry import operator


@operator("ai.onnx.ml::ZipMap")
def zip_map(
    x: Tensor, *, classlabels_int64s: Whole = None, classlabels_strings: Texts = None
) -> list[dict[int | str, float]]:
    """A map from labels to scores for each row."""
    labels = classlabels_strings or classlabels_int64s or ()
    return [dict(zip(labels, row, strict=True)) for row in x.reshape(-1, x.shape[-1]).tolist()]
