"""The page of an artifact, `report.html`: what a build found out, in one file that needs nothing else."""
