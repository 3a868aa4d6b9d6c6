"""What a new user meets: README and tutorials followed in fresh environments, and a first artifact of an own model.

    pip install -e ".[build,benchmarks]"
    python benchmarks/fresh.py [--only first-build] [--model FILE.onnx --data FILE.npz] [--json RESULTS.json]

For each page the last commit of this checkout is cloned into a new folder, a virtual environment made there, planish
installed into it by pip as README.md says, and the page followed to the letter by `tests/followed.py`: what commands
print has to be what the page shows, but for numbers. Of README.md it is the first command. `own model` counts and times
what lies between a fresh clone and the artifact of an ONNX file that comes from elsewhere: the one that is given, or a
ResNet-18 with 32 images to calibrate with.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Annotated, Any

import typer
from first_hour import prepare
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
EXTRAS = {"first-build": "build", "write-a-pass": "build", "transformer-int8": "build,examples"}
"""What each tutorial has to be installed with."""
OWN = ('pip install -e ".[build]"', "planish quantize {model} -d {data}")
"""The commands from a clone to an artifact of an own ONNX file."""


def run(command: str, folder: Path, environment: Path) -> tuple[float, str]:
    """Seconds that a command takes in an environment, and what it printed if it failed."""
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    others = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = {**others, "PATH": path, "VIRTUAL_ENV": str(environment), "PLANISH_CACHE": str(folder.parent / "cache")}
    start = time.perf_counter()
    done = subprocess.run(command, shell=True, cwd=folder, env=found, check=False, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout + done.stderr if done.returncode else ""


def steps(name: str, model: Path, data: Path) -> tuple[str, ...]:
    """The commands of one case."""
    if name == "own model":
        return tuple(command.format(model=model, data=data) for command in OWN)
    if name == "readme":
        return (re.findall(r"```sh\n(.*?) +#", (ROOT / "README.md").read_text(encoding="utf-8"))[0],)
    page = f"docs/tutorials/{name}.md"
    return (f'pip install -e ".[{EXTRAS[name]}]"', f"python tests/followed.py --check {page}")


def tried(name: str, given: tuple[Path, Path] | None) -> dict[str, Any]:
    """Each command of a case with its seconds, up to the first that fails, in a clone and an environment of its own.

    Args:
        name: the name of the case.
        given: an own model, and its data.
    """
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder, environment = Path(temporary, "planish"), Path(temporary, "environment")
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
        venv.create(environment, with_pip=True, symlinks=True)
        if name == "own model" and given is None:
            prepare(Path(temporary), images=32, layers=1, width=64)
        resnet18 = Path("..", "resnet18")
        found: dict[str, Any] = {"name": name, "seconds": {}, "failed": ""}
        for command in steps(name, *given or (resnet18 / "resnet18.onnx", resnet18 / "images.npz")):
            seconds, failed = run(command, folder, environment)
            found["seconds"][command] = seconds
            if failed:
                return {**found, "failed": failed}
        return found


def main(
    only: Annotated[str | None, typer.Option(help="The one case: readme, a tutorial's name, or 'own model'.")] = None,
    model: Annotated[Path | None, typer.Option(help="An own model, as an ONNX file.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data that the own model is calibrated on.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Try all cases, print what each command took, and fail where a page shows something else."""
    assert (model is None) == (data is None), "a model comes with data"
    given = None if model is None or data is None else (model.absolute(), data.absolute())
    rows = [tried(name, given) for name in ("readme", *EXTRAS, "own model") if only in (None, name)]
    table = Table("followed", "command", "seconds")
    for row in rows:
        for command, seconds in row["seconds"].items():
            table.add_row(row["name"], command.replace("[", "\\["), f"{seconds:.0f}")
    Console(width=None if os.isatty(1) else 120).print(table)
    for row in rows:
        if row["failed"]:
            print(f"{row['name']}:\n{row['failed']}", file=sys.stderr)
    print(f"load: {os.getloadavg()[0]:.1f}")
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(int(any(row["failed"] for row in rows)))


if __name__ == "__main__":
    typer.run(main)
