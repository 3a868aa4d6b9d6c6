"""The search for the fastest ways to generate a model's kernels, measured in a compiler's process."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ....ir.drafts import workspace
from ....ir.errors import TargetError
from ....ir.graph import Graph
from ....passes.legalization.origins import Origins
from ....targets import Target
from ....targets.load import write_target
from ..tune.database import TuningRecord
from .client import DiedError, Message, ask
from .handover import handed_over


def search(
    legal: Graph,
    source: Graph,
    target: Target,
    sizes: Mapping[str, int],
    *,
    known: Collection[str],
    seconds: float,
    begun: Callable[[Collection[str]], None],
    found: Callable[[TuningRecord], None],
) -> None:
    """Measure the kernels of a model.

    Args:
        legal: the graph as the backend's pipeline leaves it.
        source: the graph before the pipeline, whose operators refusals name.
        target: a target like this machine.
        sizes: the sizes of the inputs' symbolic dimensions.
        known: kernels that need not be measured.
        seconds: the seconds after which no other kernel is begun.
        begun: called with the kernels that can be generated in several ways.
        found: called with each finding, first for the kernels that take the most time.

    Raises:
        TargetError: TVM can't run the model, or its compiler died over a kernel.
        CheckError: a kernel gives something else if it is generated in another way.
    """

    def hear(message: Message) -> None:
        if "kernels" in message:
            begun(message["kernels"])
        if "finding" in message:
            found(TuningRecord(**message["finding"]))

    with (
        workspace() as folder,
        handed_over(legal, Path(folder, "graph")) as handed,
    ):
        request = {
            "work": "tune",
            "graph": str(handed),
            "operators": Origins.of(source).operators,
            "target": str(write_target(target, Path(folder))),
            "sizes": dict(sizes),
            "known": sorted(known),
            "seconds": seconds,
        }
        try:
            ask(request, Path(folder), hear)
        except DiedError as death:
            what = next(iter(death.running), "what comes before the kernels")
            raise TargetError(
                f"TVM's compiler died over {what}: {death.said}; what was found before is kept"
            ) from death
