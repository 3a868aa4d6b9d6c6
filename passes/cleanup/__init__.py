"""Exact simplifications."""
