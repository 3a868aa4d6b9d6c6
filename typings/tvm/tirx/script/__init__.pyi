"""Ways to write TIR in Python."""
