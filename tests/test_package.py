"""The package is what it says: its folders, its wheel, its face, and who imports what."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import planish

ROOT = Path(planish.__file__).parent
OUTSIDE = {"tests", "examples", "benchmarks", "docs", "build", "dist"}
"""Folders of the repository that are no part of the package."""


def is_inside(file: Path) -> bool:
    parts = file.relative_to(ROOT).parts
    return parts[0] not in OUTSIDE and not any(part.startswith(".") for part in parts)


FOLDERS = sorted(file.parent for file in ROOT.rglob("__init__.py") if is_inside(file))
SOURCES = [file for folder in FOLDERS for file in sorted(folder.glob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- what is shipped


def test_the_list_of_packages_is_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert listed == sorted(".".join(("planish", *folder.relative_to(ROOT).parts)) for folder in FOLDERS)


def test_every_source_is_in_a_package() -> None:
    """A module in a folder without `__init__.py` would work in a checkout, and be missing from the wheel."""
    assert set(filter(is_inside, ROOT.rglob("*.py"))) == set(SOURCES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel that is built from a copy, so that the checkout is left alone."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    )
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder]
    done = subprocess.run(command, cwd=folder / "source", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("planish-*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: set[str]) -> None:
    shipped = {f"planish/{name_of(file)}" for file in [*SOURCES, *(ROOT / "targets").glob("*.toml"), ROOT / "py.typed"]}
    metadata = {name for name in wheel if name.partition("/")[0].endswith(".dist-info")}
    assert wheel - metadata == shipped
    assert "planish/targets/x86-64-avx2.toml" in shipped
    kept = {name.rpartition("/")[2] for name in metadata}
    assert kept == {"METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt", "top_level.txt"}


# -- the face


def test_every_name_of_the_face_is_what_its_home_holds() -> None:
    assert planish.__all__ == sorted(planish.__all__)
    assert list(planish._HOMES) == planish.__all__
    for name, home in planish._HOMES.items():
        assert getattr(planish, name) is getattr(import_module(home, "planish"), name)


def test_type_checkers_see_the_same_face() -> None:
    """The imports for them are from the same homes."""
    (block,) = [node for node in ast.parse((ROOT / "__init__.py").read_text()).body if isinstance(node, ast.If)]
    seen = {
        alias.name: f".{statement.module}"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == planish._HOMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'planish' has no attribute 'tarce'"):
        _ = planish.tarce


# -- what is imported when

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "tvm", "networkx", "scipy", "sklearn", "pydantic", "ml_dtypes")
REPORT = "import sys; print('IMPORTED', *sorted({name.partition('.')[0] for name in sys.modules}))"
CLI = "import sys; sys.argv[0] = 'planish'\nfrom planish.driver.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end\n"


@pytest.mark.parametrize(
    ("program", "arguments", "inevitable"),
    [
        ("import planish\n", [], set()),
        ("import planish; planish.Pass, planish.RewriteRule, planish.Graph, planish.Builder\n", [], set()),
        (CLI, ["--help"], set()),
        (CLI, ["passes"], {"pydantic"}),  # by typer, where it runs a command
        (CLI, ["targets"], {"pydantic"}),
    ],
    ids=["import", "names for passes", "--help", "passes", "targets"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(
    program: str, arguments: list[str], inevitable: set[str]
) -> None:
    command = [sys.executable, "-c", program + REPORT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.rpartition("IMPORTED")[2].split()
    assert "planish" in imported
    assert sorted(set(HEAVY) & set(imported) - inevitable) == []


# -- who imports what

ALWAYS = {
    "torch": {"ir/ops/", "ir/infer.py", "ir/scope.py", "ir/interpreter.py", "ir/module.py", "frontends/torch/"},
    "onnxruntime": set(),
    "tvm": {"backends/tvm/"},
    "onnx": {"frontends/onnx", "backends/"},
    "onnx_ir": {"frontends/onnx", "backends/"},
    "networkx": {"ir/analysis/"},
    "scipy": {"ir/analysis/"},
    "pydantic": {"backends/tvm/database.py", "driver/recipe.py"},
}
"""Where a library may be imported when a module is."""
INSIDE_FUNCTIONS = {
    "torch": {"passes/"},
    "onnxruntime": {"backends/onnxruntime/"},
    "onnx": {"ir/unranked.py", "ir/verify.py"},
    "scipy": {"driver/evaluation.py"},
}
"""Where it may be imported besides, by a function that needs it, or for type checkers alone."""


def imports(tree: ast.AST, lazily: bool = False) -> Iterator[tuple[str, bool]]:
    """The libraries that are imported, and whether only later or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], lazily) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0], lazily
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            yield from imports(node, lazily or later or for_types)


@pytest.fixture(scope="module")
def imported() -> list[tuple[str, str, bool]]:
    """Every import of a library: the file, the library, and whether it is lazy."""
    return [(name_of(file), *found) for file in SOURCES for found in imports(ast.parse(file.read_text()))]


@pytest.mark.parametrize("library", ALWAYS)
def test_a_library_is_imported_where_the_architecture_says(library: str, imported) -> None:
    always, lazily = ALWAYS[library], INSIDE_FUNCTIONS.get(library, set())
    for file, name, is_lazy in imported:
        allowed = tuple(always | lazily if is_lazy else always)
        assert name != library or file.startswith(allowed), f"{file} imports {name}"


def test_imports_inside_the_package_are_relative(imported) -> None:
    assert [file for file, name, _ in imported if name == "planish"] == []


def test_tests_have_no_packages() -> None:
    """Pytest imports them by path; a package would make their names clash with the library's."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_file_is_too_long(file: Path) -> None:
    most = 600 if name_of(file) == "ir/graph.py" else 400
    assert len(file.read_text().splitlines()) <= most
