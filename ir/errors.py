"""Errors that a user can mend: each says what and where, and carries the exit code that the command line ends with."""


class PlanishError(Exception):
    """The base of every error that isn't a bug of ours."""

    exit_code = 1


class PassError(PlanishError):
    """A pass or a rule that isn't planish's own, and crashed: a bug of its author's. The cause is what it raised."""

    exit_code = 1


class UsageError(PlanishError):
    """A wrong option, an unknown pass, target or key, a bad recipe."""

    exit_code = 2


class ModelError(PlanishError):
    """A model or data that can't be used: a broken file, an unknown operator, a wrong shape, NaN weights."""

    exit_code = 3


class CheckError(PlanishError):
    """A graph that is malformed, or that no longer means what its source meant."""

    exit_code = 4


class BudgetError(PlanishError):
    """An artifact that was built and is right, but misses a budget of its recipe."""

    exit_code = 5


class TargetError(PlanishError):
    """Something that the target or the backend can't run."""

    exit_code = 6
