"""The three models of `examples/` before and after their recipes, each measured beside its source in one run.

    pip install -e ".[tvm,examples]"
    python benchmarks/examples.py [--only digits] [--backend onnxruntime]

Prints the table of the README. Ratios are medians over the rounds of one interleaved run, with their quartiles.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import planish

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("digits", "minilm", "ocr")


def built(name: str, backend: str | None, folder: Path) -> Any:
    """Build an example into another folder than its own."""
    recipe = yaml.safe_load((EXAMPLES / name / "recipe.yaml").read_text(encoding="utf-8"))
    changes = {"output": folder / name, "folder": EXAMPLES / name, "name": name}
    return planish.build(planish.Recipe(**recipe | changes | ({} if backend is None else {"backend": backend})))


def main(
    only: Annotated[str | None, typer.Option(help="The one example to build.")] = None,
    backend: Annotated[str | None, typer.Option(help="The backend to build for, instead of the recipes'.")] = None,
) -> None:
    """Build the examples, and print what changed as a table of Markdown."""
    print("| model | metric | before | after | size | speed (quartiles) | backend |\n|-|-|-|-|-|-|-|")
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES if only is None else (only,):
            made = built(name, backend, Path(folder))
            metric = made.metric.name.rpartition(":")[2].replace("_", " ")
            before, after = (f"{it.score.value:.4f}" for it in (made.untouched, made.built))
            size = f"{made.untouched.size / 1e6:.2f} to {made.built.size / 1e6:.2f} MB, {made.shrinkage:.1f}x smaller"
            speed = f"{made.speedup.median:.2f}x ({made.speedup.lower:.2f} to {made.speedup.upper:.2f})"
            link = f"[{name}](examples/{name})"
            print(f"| {link} | {metric} | {before} | {after} | {size} | {speed} | {made.built.backend} |")


if __name__ == "__main__":
    typer.run(main)
