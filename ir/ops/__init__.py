"""What each operator means, one small file per family."""

from .registry import Body, Operator, operator, operators

__all__ = ["Body", "Operator", "operator", "operators"]
