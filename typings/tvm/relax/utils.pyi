"""What makes kernels of functions of tensors."""

set: type[object]  # it isn't there, until somebody puts a set of another order in the built-in one's place
