"""Rewrites as pairs of functions: a pattern and what replaces it."""

from .apply import RewritePass, RulePass, apply_rules
from .match import Match
from .rule import RewriteRule

__all__ = ["Match", "RewritePass", "RewriteRule", "RulePass", "apply_rules"]
