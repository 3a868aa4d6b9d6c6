"""The order of passes: which must not come later, and which properties of the graph they need, establish and destroy.

Properties are words. A model comes with those of `OF_SOURCES`:

    float      the weights of layers are floats, as training left them
"""

from collections.abc import Iterator, Sequence

from ..ir.errors import UsageError
from .base import Pass
from .group import Group

OF_SOURCES = frozenset({"float"})


def check_order(passes: Sequence[Pass], classes: Sequence[type[Pass]]) -> None:
    """Hold a pipeline to what its passes declare, before any of them runs.

    Args:
        passes: the passes in order.
        classes: the classes of all passes, to say which one would help.

    Raises:
        UsageError: a pass comes too early or lacks a property; the error names both, and says how to mend it.
    """
    steps = list(flattened(passes))
    names = [step.name for step in steps]
    given = dict.fromkeys(OF_SOURCES, "")
    ended: dict[str, str] = {}
    for index, step in enumerate(steps):
        late = [needed for needed in step.after if needed in names and needed not in names[:index]]
        if late:
            raise UsageError(
                f"{step.name} must come after {', '.join(late)}, but comes earlier in the pipeline: move it"
            )
        for needed in sorted(step.needs - given.keys()):
            raise UsageError(f"{step.name} needs a graph that is {needed}, {_cure(step, needed, ended, classes)}")
        ended |= dict.fromkeys(step.destroys, step.name)
        given = {word: "" for word in (*given, *step.establishes) if word not in step.destroys}


def flattened(passes: Sequence[Pass]) -> Iterator[Pass]:
    """The passes, each group replaced by its members."""
    for step in passes:
        if isinstance(step, Group):
            yield from flattened(step.steps)
        else:
            yield step


def _cure(step: Pass, needed: str, ended: dict[str, str], classes: Sequence[type[Pass]]) -> str:
    if needed in ended:
        return f"which it no longer is after {ended[needed]}: put {step.name} before {ended[needed]}"
    makers = sorted(kind.name for kind in classes if needed in kind.establishes)
    if not makers:
        return f"which no pass makes it: leave {step.name} out"
    return f"which {' or '.join(makers)} makes it: put {'that' if len(makers) == 1 else 'one of these'} before it"
