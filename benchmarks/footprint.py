"""What running artifacts takes on a target: environments made by the lines of docs/runtime.md, and their sizes.

    pip install -e ".[build,tvm]"
    python benchmarks/footprint.py [--only "tvm*"] [--json RESULTS.json]

The wheel of this checkout is built and installed into a new virtual environment with each of the extras that artifacts
run on, by pip, from a registry. A signed artifact for each is loaded there and has to compute what it computes here.
Sizes are those of all files of an environment's packages, Python's compiled ones included; of planish's own packages,
those of the compiler are there too, and are never imported.
"""

import json
import subprocess
import sys
import tempfile
import venv
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import planish
from planish.ir.extras import BUILD
from planish.ir.storage import save
from planish.ir.text import parse_graph

ROOT = Path(planish.__file__).parent
EXTRAS = {"onnxruntime": ("onnxruntime", False), "tvm-runtime": ("tvm", True), "tvm": ("tvm", False)}
"""The extras that artifacts run on: each with the backend, and whether the artifact carries its runtime."""
GRAPH = """graph "main"(%x: float32[batch, 2]) {
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  %y: float32[batch, 2] = MatMul(%x, %w)
  return y = %y
}"""
KEY = b"a secret of both sides"
X = [[1.0, 1.0], [2.0, 3.0]]
PROGRAM = f"""
import json, sys
import numpy as np
import planish

outputs = planish.load(sys.argv[1], key={KEY!r})(np.array({X}, np.float32))
print(json.dumps([outputs[0].tolist(), sorted(set(sys.modules) & {set(BUILD)!r})]))
"""


def wheel(folder: Path) -> Path:
    """The wheel of this checkout."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def environment(folder: Path, requirement: str) -> tuple[Path, Path]:
    """The interpreter and the packages of a new virtual environment that holds what a requirement brings alone."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", requirement], check=True)
    return python, next(folder.glob("lib/python3*/site-packages"))


def artifact(folder: Path, backend: str, carries: bool) -> Path:
    """A signed artifact."""
    save(parse_graph(GRAPH), folder / "net.planish")
    recipe = planish.Recipe(
        model=str(folder / "net.planish"), backend=backend, bundle_runtime=carries, output=folder / "dist"
    )
    return planish.build(recipe, key=KEY).directory


def sizes(packages: Path) -> dict[str, int]:
    """Bytes by what lies in a folder of packages, with the libraries that belong to a package; the largest first."""
    found: dict[str, int] = {}
    for file in packages.rglob("*"):
        name = file.relative_to(packages).parts[0].removesuffix(".libs").partition("-")[0]
        found[name] = found.get(name, 0) + (file.stat().st_size if file.is_file() else 0)
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def measured(extra: str, archive: Path) -> dict[str, Any]:
    """What one environment holds, after an artifact has run there."""
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder = Path(temporary)
        directory = artifact(folder, *EXTRAS[extra])
        python, packages = environment(folder / "environment", f"{archive}[{extra}]")
        ran = subprocess.run([python, "-I", "-c", PROGRAM, directory], check=True, capture_output=True, text=True)
        (outputs, builders), held = json.loads(ran.stdout), sizes(packages)
        expected = planish.load(directory, key=KEY)(np.array(X, np.float32))[0]
        assert outputs == expected.tolist(), outputs
        return {
            "extra": extra,
            "imported": builders,
            "sizes": held,
            "total": sum(held.values()),
            "artifact": sum(file.stat().st_size for file in directory.iterdir()),
        }


def main(
    only: Annotated[str, typer.Option(help="A glob of extras.")] = "*",
    output: Annotated[Path | None, typer.Option("--json", help="The file to write the results to.")] = None,
) -> None:
    """Measure the environments, and print what they hold."""
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        archive = wheel(Path(temporary))
        rows = [measured(extra, archive) for extra in EXTRAS if fnmatchcase(extra, only)]
    table = Table("installed by", "MB", "artifact, MB", "of which")
    for row in rows:
        largest = [f"{name} {size / 1e6:.1f}" for name, size in row["sizes"].items() if size >= 1e5]
        megabytes = (f"{row[key] / 1e6:.1f}" for key in ("total", "artifact"))
        table.add_row(f"pip install 'planish\\[{row['extra']}]'", *megabytes, ", ".join(largest))
    Console().print(table)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
