"""Builds that are killed at random moments and run again: whether the bytes are the same, and how much is done twice.

    pip install -e ".[benchmarks,dev]"
    python benchmarks/kills.py [RECIPE] [--times 20] [--backend onnxruntime] [--set KEY=VALUE ...]

Each build is a process of its own that ends by SIGKILL at a moment drawn evenly over an undisturbed one's time, with a
cache of its own, and is then run again to its end. The files but those of measured times are compared byte by byte.
What was done twice is counted in seconds of the processor: those of both runs, less an undisturbed build's, less what
every build does before its first pass. Processes are forks of one that has imported everything.
"""

import os
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

import planish.driver.making  # noqa: F401 -- brings torch, once for all forks
from planish.backends.manifest import MEASUREMENTS, REPORT
from planish.driver.build import build
from planish.driver.recipe import Recipe
from planish.driver.recipe_file import read_recipe
from planish.driver.reporter import Reporter
from planish.ir.cache_folder import VARIABLE

DIGITS = Path(__file__).parent.parent / "examples/digits/recipe.yaml"


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a build.

    Attributes:
        is_done: whether it came to its end.
        seconds: that it took.
        processor: seconds of the processor.
    """

    is_done: bool
    seconds: float
    processor: float


class _Start(Reporter):
    """Writes down how much of the processor was used before the first pass."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def running(self, name: str, number: int, total: int) -> None:
        if number == 1 and not self._path.exists():
            self._path.write_text(str(time.process_time()))


def main(
    recipe: Annotated[Path, typer.Argument(help="What is built.")] = DIGITS,
    times: Annotated[int, typer.Option(help="Kills.")] = 20,
    backend: Annotated[str, typer.Option(help="That it is built for.")] = "onnxruntime",
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Of the recipe, as in `planish build`.")] = None,
) -> None:
    """Print how builds end that are killed and run again, and how much of them was done twice."""
    random = Random(seed)
    with tempfile.TemporaryDirectory(prefix="planish-kills-") as folder:
        place = Path(folder)
        asked = read_recipe(recipe, {"backend": backend}, settings or [])
        whole = _run(asked, place / "whole")
        if not whole.is_done:
            raise SystemExit("the undisturbed build fails")
        before = float((place / "whole.start").read_text())
        wanted = _files(place / "whole/dist")
        print(f"undisturbed: {whole.seconds:.1f} s, of the processor {whole.processor:.1f} s", flush=True)
        print(f"of these before the first pass: {before:.1f} s", flush=True)
        equal, twice = 0, list[float]()
        while len(twice) < times:
            work = place / str(len(twice))
            moment = random.uniform(0, whole.seconds)
            killed = _run(asked, work, moment)
            if killed.is_done:  # the machine was faster this time
                continue
            again = _run(asked, work)
            is_equal = again.is_done and _files(work / "dist") == wanted
            left = sorted(path.name for path in work.iterdir() if path.name not in ("dist", "cache"))
            equal += is_equal and not left
            twice.append(killed.processor + again.processor - whole.processor - min(before, killed.processor))
            outcome = "the same bytes" if is_equal else "OTHER BYTES" if again.is_done else "IT FAILS"
            also = f", and beside it {', '.join(left)}" if left else ""
            print(f"killed after {moment:.1f} s: {outcome}{also}; {twice[-1]:.1f} s twice", flush=True)
        middle, most = np.median(twice), max(twice)
        print(f"{equal} of {times} end in the bytes of the undisturbed build")
        print(f"done twice: median {middle:.1f} s, at most {most:.1f} s")


def _run(recipe: Recipe, work: Path, moment: float | None = None) -> Run:
    """Build in a process of its own, and kill it after some seconds if it is still there."""
    work.mkdir(exist_ok=True)
    start = time.monotonic()
    number = os.fork()
    if not number:
        code = 1
        try:
            os.environ[VARIABLE] = str(work / "cache")
            build(recipe.model_copy(update={"output": work / "dist"}), reporter=_Start(work.with_suffix(".start")))
            code = 0
        except Exception:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    if moment is not None:
        time.sleep(moment)
        os.kill(number, signal.SIGKILL)  # a child that has ended is there until it is waited for
    _, status, usage = os.wait4(number, 0)
    return Run(status == 0, time.monotonic() - start, usage.ru_utime + usage.ru_stime)


def _files(folder: Path) -> dict[str, bytes]:
    """The files of an artifact but for measured times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (MEASUREMENTS, REPORT)}


if __name__ == "__main__":
    typer.run(main)
