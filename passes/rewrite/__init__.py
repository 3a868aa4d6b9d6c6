"""Rewrites as pairs of functions: a pattern and what replaces it."""

from .apply import RewritePass, apply_rules, rule_pass
from .matched import Match
from .rule import RewriteRule

__all__ = ["Match", "RewritePass", "RewriteRule", "apply_rules", "rule_pass"]
