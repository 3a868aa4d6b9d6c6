"""What each operator means, one small file per family."""

from .registry import Operator, operator, operators

__all__ = ["Operator", "operator", "operators"]
