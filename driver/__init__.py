"""Recipes, builds, measurements and the command line, on top of everything else."""
