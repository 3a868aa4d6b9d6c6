"""Each layer in the precision that it can bear: how much each one matters, what it takes, and the choice."""
