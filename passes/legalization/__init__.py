"""What each backend can't run, and how operators are spelled out in simpler ones."""
