"""The instructions that multiply and add: a file for each kind of operands."""
