"""Operators in Relax, one file for each family; `table` finds them."""
