"""Operators on regions of images."""

from collections.abc import Sequence

from ...ir import Expr

def roi_pool(data: Expr, rois: Expr, pooled_size: Sequence[int], spatial_scale: float) -> Expr: ...
