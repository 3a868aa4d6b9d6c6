"""What quantization as a whole has lost, said where it is much."""

from collections.abc import Sequence

from ..base import Feeds, PassContext
from ..decisions import decisions
from ..judge import Judge, Reference
from .calibrate import first_batches_of

_JUDGED_ON = 64  # samples
_MUCH = 2.0
"""What may be lost, in percent, before it is said."""


def last_batches(context: PassContext) -> Sequence[Feeds]:
    """The calibration data that what is lost is judged on."""
    return first_batches_of(context.calibration[::-1], _JUDGED_ON)


def losses(before: Reference, made: Reference, last: Sequence[Feeds]) -> list[str]:
    """A sentence if rounding loses much on the last of the calibration data; none where the graph makes decisions."""
    if decisions(before.graph):
        return []
    judge = Judge(before, last)
    lost = judge.judge(made).drop if judge.measures else 0.0
    if not lost > _MUCH:
        return []
    where = f"the outputs lose {lost:.1f} % on the last {len(last)} batches of the calibration data"
    return [f"{where}: quantize-mixed{{max_drop=1}} keeps in float what loses most"]
