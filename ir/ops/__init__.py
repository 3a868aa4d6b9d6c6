"""What each operator means, one small file per family."""

from .registry import Body, Ints, Operator, named_operator, operator, operators

__all__ = ["Body", "Ints", "Operator", "named_operator", "operator", "operators"]
