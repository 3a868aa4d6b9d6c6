"""Ways to write TVM's IR in Python."""
