"""Whether what a failed check leaves behind fails again: faults are planted, and what is left of them is replayed.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/reproducers.py [--only 'quantize*'] [--json RESULTS.json]

Each pass gets faults of four kinds, one at a time, in what it makes of a small classifier in `planish build`: outputs
that are off, a type that is wrong, an attribute that makes no sense, a crash. So do both backends: an operator that
computes something else, and in TVM a kernel. The mistakes that `tests/passes/test_effects.py` plants in the source of
passes are run on the graphs of the suite that show them.

Then other processes, which have the same fault and nothing else, are given the folder that the error has named:
`planish opt` has to end in the same error, `planish bisect` to name the pass, or in a backend the layer, and what
`planish reduce` writes has to fail in the same way: in the same pass, by the same check or exception. A case is

    equal     all of that holds
    refused   a build's checks see nothing wrong, and needn't: the pass may do that, or leaves the right graph
    wrong     something of it doesn't hold, or a build's checks see nothing wrong
    crash     anything else
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import chdir, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
from fuzz import planted
from rich.console import Console
from typer.testing import CliRunner
from workers import CLASSES, Outcome, Unequal, check_all

from planish.driver.cli import app
from planish.passes.reproducer import read_reproducer

SECONDS = 300.0
"""The time after which a case counts as hung."""


# -- one case, in a process of its own


def leave(name: str, roots: tuple[str, ...]) -> dict[str, Outcome]:
    """Let a case fail, and note the folder that its error names."""
    (root,) = roots
    with _within(Path(root, name.replace(" ", "-"))), planted.planted(name):
        said = planted.fail(name, _run)
        if said is None:
            excuse = planted.excuse(name)
            return {root: ("refused", excuse) if excuse else ("wrong", "a build's checks see nothing wrong")}
        left = set(re.findall(r"planish opt (\S+)", said))
        if len(left) != 1:
            return {root: ("wrong", f"it left {len(left)} reproducers: {_short(said)}")}
        Path("left.json").write_text(json.dumps({"folder": left.pop(), "said": said}))
    return {root: ("equal", "")}


def replay(name: str, roots: tuple[str, ...]) -> dict[str, Outcome]:
    """Let what a case has left fail again, find the fault in it, and reduce it."""
    (root,) = roots
    with _within(Path(root, name.replace(" ", "-"))), planted.planted(name):
        left = json.loads(Path("left.json").read_text())
        try:
            _hold(name, left["folder"], left["said"])
        except Unequal as fault:
            return {root: ("wrong", str(fault))}
    return {root: ("equal", "")}


def _hold(name: str, folder: str, said: str) -> None:
    """Hold a reproducer to what it is for.

    Raises:
        Unequal: naming the command that doesn't do it.
    """
    text: str = json.loads(Path(folder, "reproducer.json").read_text())["error"]
    error = re.split(r"['%\[(]|: [A-Z]", text.partition(": ")[2])[0][:80]
    if _masked(error) not in _masked(said):
        raise Unequal(f"it notes the error {text!r}, and the build said: {_short(said)}")
    for command, wanted, arguments in (
        ("opt", error, (folder,)),
        ("bisect", planted.told_by(name), (folder,)),
        ("reduce", "", (folder, "-o", "small")),
        ("opt", error, ("small",)),
    ):
        code, found = _run(command, *arguments)
        is_other = {"opt": not code, "reduce": bool(code)}.get(command, False)
        if is_other or _masked(wanted) not in _masked(found):
            raise Unequal(f"{command} {arguments[0]} ends with {code}, and has to say {wanted!r}: {_short(found)}")
    sizes = [len(read_reproducer(Path(it)).graph) for it in (folder, "small")]
    if sizes[1] > sizes[0]:
        raise Unequal(f"what is reduced has {sizes[1]} nodes, and had {sizes[0]}")


def _masked(text: str) -> str:
    return re.sub(r"[-+]?\d[\d.e+-]*", "#", " ".join(text.split()))


def _short(text: str) -> str:
    return " ".join(text.split())[-600:]


def _run(*arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says."""
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output  # both streams


@contextmanager
def _within(folder: Path) -> Generator[None]:
    """Work in a folder, which reproducers are left in, too."""
    folder.mkdir(exist_ok=True)
    held, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        with chdir(folder):
            yield
    finally:
        tempfile.tempdir = held


# -- all cases


def main(
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of cases; may be repeated.")] = None,
    keep: Annotated[Path | None, typer.Option(help="A new folder for what is left; by default it is erased.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 1,
    seconds: Annotated[float, typer.Option(help="Seconds after which a case counts as hung.")] = SECONDS,
) -> None:
    """Count the failures that leave a reproducer which fails again."""
    chosen = [name for name in planted.names() if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    with tempfile.TemporaryDirectory(prefix="planish-reproducers-") as scratch:
        root = str((keep or Path(scratch)).absolute())
        Path(root, "cache").mkdir(parents=True, exist_ok=True)
        os.environ["PLANISH_CACHE"] = f"{root}/cache"
        outcomes = {name: row[root] for name, row in check_all(leave, chosen, (root,), jobs, seconds).items()}
        left = [name for name, (kind, _) in outcomes.items() if kind == "equal"]
        outcomes |= {name: row[root] for name, row in check_all(replay, left, (root,), jobs, seconds).items()}
    console = Console()
    counts = Counter(kind for kind, _ in outcomes.values())
    console.print(f"{len(outcomes)} cases:", ", ".join(f"{counts[kind]} {kind}" for kind in CLASSES))
    for name, (kind, detail) in outcomes.items():
        if kind != "equal":
            console.print(f"{kind} {name}: {detail}", markup=False, highlight=False, soft_wrap=True)
    if results is not None:
        results.write_text(json.dumps(outcomes, indent=1) + "\n")
    raise typer.Exit(min(1, counts["wrong"] + counts["crash"]))


if __name__ == "__main__":
    typer.run(main)
