"""Compilation in a process of its own: both of its sides, and what they hand over."""
