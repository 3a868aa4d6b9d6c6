"""Builds that are killed at random moments and run again: whether the bytes are the same, and how much is done twice.

    pip install -e ".[benchmarks,dev]"
    python benchmarks/kills.py [RECIPE] [--times 20] [--backend onnxruntime] [--set KEY=VALUE ...]

Each build is a process of its own that ends by SIGKILL at a moment drawn evenly over an undisturbed one's time, with a
cache of its own, and is then run again to its end. The files but those of measured times are compared byte by byte.
What was done twice is counted: each build writes down which pass it begins and each layer, batch, trial or step of a
training that it has come to, and what both runs have of these, less what an undisturbed build has, was done twice. The
one that was being done when the kill came is among them. Processes are forks of one that has imported everything.
"""

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

import planish.driver.making  # noqa: F401 -- brings torch, once for all forks
from planish.backends.manifest import MEASUREMENTS, REPORT, TIMINGS
from planish.driver.build import build
from planish.driver.recipe import Recipe
from planish.driver.recipe_file import read_recipe
from planish.driver.reporter import Reporter
from planish.ir.cache_folder import VARIABLE

DIGITS = Path(__file__).parent.parent / "examples/digits/recipe.yaml"

_BEFORE = -1_000_000
"""The place before the first pass."""

Unit = tuple[int, str, int]
"""A place in the pipeline, counted from its end, since a build that is taken up numbers the passes that are left; what
is done there, and its number: a layer, batch, trial or step; 0 for the pass itself."""


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a build.

    Attributes:
        is_done: whether it came to its end.
        seconds: the seconds that the build took.
        units: how often the build has come to each unit.
    """

    is_done: bool
    seconds: float
    units: Counter[Unit]

    @property
    def last_pass(self) -> int:
        """The place of the last pass that was begun."""
        return max((place for place, _, step in self.units if not step), default=_BEFORE)


class _Journal(Reporter):
    """Writes down what a build comes to, line by line, so that nothing is lost when its process is killed."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._place = _BEFORE

    def running(self, name: str, number: int, total: int) -> None:
        self._place = number - total
        self._write(name, 0)

    def progress(self, description: str, done: int, total: int) -> None:
        self._write(re.split(r"[\d:]", description)[0].strip(), done + 1)  # trainings tell their loss

    def _write(self, what: str, done: int) -> None:
        os.write(self._file, f"{self._place}\t{what}\t{done}\n".encode())


def _journal(path: Path) -> Counter[Unit]:
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return Counter((int(place), what, int(done)) for place, what, done in rows)


def main(
    recipe: Annotated[Path, typer.Argument(help="The recipe to build.")] = DIGITS,
    times: Annotated[int, typer.Option(help="The number of kills.")] = 20,
    backend: Annotated[str, typer.Option(help="The backend to build for.")] = "onnxruntime",
    seed: Annotated[int, typer.Option(help="The seed that draws the moments.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, as in `planish build`.")] = None,
) -> None:
    """Print how builds end that are killed and run again, and how much of them was done twice."""
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="planish-kills-") as folder:
        place = Path(folder)
        asked = read_recipe(recipe, {"backend": backend}, settings or [])
        whole = _run(asked, place / "whole")
        if not whole.is_done:
            raise SystemExit("the undisturbed build fails")
        wanted = _files(place / "whole/dist")
        print(
            f"undisturbed: {whole.seconds:.1f} s, {sum(whole.units.values())} passes, layers, trials, steps", flush=True
        )
        equal, done = 0, 0
        passes, most = list[int](), Counter[str]()
        while done < times:
            work = place / str(done)
            moment = random.uniform(0, whole.seconds)
            killed = _run(asked, work, moment)
            if killed.is_done:  # the machine was faster this time
                continue
            again = _run(asked, work)
            is_equal = again.is_done and _files(work / "dist") == wanted
            left = sorted(path.name for path in work.iterdir() if path.name not in ("dist", "cache"))
            equal += is_equal and not left
            done += 1
            twice = killed.units + again.units - whole.units
            finished = {name for at, name, step in twice if not step and at < killed.last_pass}
            passes.append(len(finished))
            inside = Counter(what for _, what, step in twice.elements() if step)
            most |= inside
            outcome = "the same bytes" if is_equal else "OTHER BYTES" if again.is_done else "IT FAILS"
            also = f", and beside it {', '.join(left)}" if left else ""
            print(f"killed after {moment:.1f} s: {outcome}{also}; {_told(finished, inside)}", flush=True)
        print(f"{equal} of {times} end in the bytes of the undisturbed build")
        print(f"passes that were done and ran again: median {np.median(passes):g}, at most {max(passes)}")
        print(f"inside of passes, at most after a kill: {dict(most)}")


def _told(passes: AbstractSet[str], inside: Counter[str]) -> str:
    """What was done twice, in words."""
    parts = [*sorted(passes), *(f"{count} x {what}" for what, count in inside.items())]
    return f"twice: {', '.join(parts) or 'nothing'}"


def _run(recipe: Recipe, work: Path, moment: float | None = None) -> Run:
    """Build in a process of its own, and kill it after some seconds if it is still there."""
    work.mkdir(exist_ok=True)
    start, journal = time.monotonic(), work.with_suffix(".journal")
    number = os.fork()
    if not number:
        code = 1
        try:
            os.environ[VARIABLE] = str(work / "cache")
            build(recipe.model_copy(update={"output": work / "dist"}), reporter=_Journal(journal))
            code = 0
        except Exception:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    if moment is not None:
        time.sleep(moment)
        os.kill(number, signal.SIGKILL)  # a child that has ended is there until it is waited for
    _, status = os.waitpid(number, 0)
    return Run(status == 0, time.monotonic() - start, _journal(journal) if journal.exists() else Counter())


def _files(folder: Path) -> dict[str, bytes]:
    """The files of an artifact but for measured times."""
    measured = (MEASUREMENTS, REPORT, TIMINGS)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in measured}


if __name__ == "__main__":
    typer.run(main)
