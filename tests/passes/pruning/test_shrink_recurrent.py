"""Removing hidden units of recurrent layers: a row of each gate, both biases, and what starts or reads the state."""
