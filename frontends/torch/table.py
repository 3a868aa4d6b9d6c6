"""The whole table of lowerings, gathered from the files of its families."""

from . import lower_elementwise, lower_grouped, lower_nn, lower_pool, lower_reduce, lower_shape
from .lowering import LOWERINGS

__all__ = ["LOWERINGS", "lower_elementwise", "lower_grouped", "lower_nn", "lower_pool", "lower_reduce", "lower_shape"]
