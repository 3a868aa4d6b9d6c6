"""The package is what it says: its folders, its archives, its face, and who imports what."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module, metadata
from io import BytesIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import planish
from planish.ir import extras

ROOT = Path(planish.__file__).parent
OUTSIDE = {"tests", "examples", "benchmarks", "docs", "build", "dist"}
"""Folders of the repository that are no part of the package."""


def is_inside(file: Path) -> bool:
    parts = file.relative_to(ROOT).parts
    return parts[0] not in OUTSIDE and not any(part.startswith(".") for part in parts)


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = sorted(file.parent for file in ROOT.rglob("__init__.py") if is_inside(file))
SOURCES = [file for folder in FOLDERS for file in sorted(folder.glob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- what is shipped


def test_the_list_of_packages_is_the_folders() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(".".join(("planish", *folder.relative_to(ROOT).parts)) for folder in FOLDERS)


def test_every_source_is_in_a_package() -> None:
    """A module in a folder without `__init__.py` would work in a checkout, and be missing from the wheel."""
    assert set(filter(is_inside, ROOT.rglob("*.py"))) == set(SOURCES)


BUILD = """
import sys
output = sys.argv[1]  # setuptools has arguments of its own
sys.path.insert(0, ".ci")
import build_backend
build_backend.build_sdist(output)
build_backend.build_wheel(output)
"""


def archives(folder: Path, **environment: str) -> dict[str, bytes]:
    """What is built from a copy of the checkout, which is left alone: the archives by name."""
    source, output = folder / "source", folder / "output"
    ignored = shutil.ignore_patterns(".git", ".*cache", ".venv", "__pycache__", "build", "dist", "*.egg-info", "output")
    shutil.copytree(ROOT, source, ignore=ignored)
    output.mkdir()
    if environment:  # the second machine: with other rights and times, and what an earlier build left
        for file in source.rglob("*"):
            os.utime(file, (1 << 30, 1 << 30))
            file.chmod(0o700)
        (source / "build/lib/planish").mkdir(parents=True)
        (source / "build/lib/planish/stale.py").touch()
        (source / "notes.txt").write_text("none of anybody's business")
    command = [sys.executable, "-c", BUILD, output]
    done = subprocess.run(
        command, cwd=source, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {file.name: file.read_bytes() for file in output.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return archives(tmp_path_factory.mktemp("built"))


SDIST, WHEEL = "planish-0.1.0.tar.gz", "planish-0.1.0-py3-none-any.whl"
DATA = [*(ROOT / "targets").glob("*.toml"), *(ROOT / "driver/page/templates").iterdir(), ROOT / "py.typed"]
SHIPPED = {name_of(file) for file in [*SOURCES, *DATA]}


def test_the_wheel_holds_the_package_and_nothing_else(built: dict[str, bytes]) -> None:
    with zipfile.ZipFile(BytesIO(built[WHEEL])) as archive:
        names = set(archive.namelist())
    held = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - held == {f"planish/{name}" for name in SHIPPED}
    assert "planish/targets/x86-64-avx2.toml" in names
    kept = {name.rpartition("/")[2] for name in held}
    assert kept == {"METADATA", "WHEEL", "RECORD", "LICENSE", "entry_points.txt", "top_level.txt"}


def test_the_sources_hold_what_a_build_needs_and_nothing_of_the_machine(built: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=BytesIO(built[SDIST])) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    beside = {".ci/build_backend.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"}
    assert {name for name in names if ".egg-info/" not in name} == SHIPPED | beside
    assert {(it.uid, it.gid, it.uname, it.gname, it.mtime) for it in members} == {(0, 0, "", "", 315_532_800)}


@pytest.mark.wide
def test_archives_are_the_same_wherever_they_are_built(built: dict[str, bytes], tmp_path: Path) -> None:
    assert sorted(built) == [WHEEL, SDIST]
    assert archives(tmp_path / "deep" / "er", TZ="Asia/Tokyo", HOME=str(tmp_path)) == built


@pytest.mark.wide
def test_the_time_of_archives_can_be_set(built: dict[str, bytes], tmp_path: Path) -> None:
    later = archives(tmp_path, SOURCE_DATE_EPOCH="1700000000")
    with tarfile.open(fileobj=BytesIO(later[SDIST])) as archive:
        assert {member.mtime for member in archive} == {1_700_000_000}
    with zipfile.ZipFile(BytesIO(later[WHEEL])) as archive:
        assert {member.date_time for member in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}


# -- what is depended on


def requirements() -> Iterator[Requirement]:
    """Every dependency of the package, of its extras and of its build, but for planish's own extras."""
    project = PYPROJECT["project"]
    groups = [
        PYPROJECT["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    return (found for group in groups for found in map(Requirement, group) if found.name != "planish")


def test_every_dependency_has_a_lowest_version_and_one_that_is_too_new() -> None:
    """`.ci/lowest` installs the lowest ones."""
    for requirement in requirements():
        assert sorted(bound.operator for bound in requirement.specifier) == ["<", ">="], requirement


def test_what_is_installed_is_within_the_bounds() -> None:
    installed = {found.name.lower().replace("_", "-"): found.version for found in metadata.distributions()}
    held = [requirement for requirement in requirements() if requirement.name in installed]
    assert {"torch", "onnx", "onnxruntime"} <= {requirement.name for requirement in held}
    for requirement in held:
        assert requirement.specifier.contains(installed[requirement.name]), requirement


def test_what_building_needs_is_looked_for_by_what_is_imported() -> None:
    packages = metadata.packages_distributions()
    brought = {found.lower().replace("_", "-") for name in extras.BUILD for found in packages[name]}
    given = PYPROJECT["project"]["optional-dependencies"]
    required = {Requirement(line).name for extra in ("build", "onnxruntime") for line in given[extra]}
    assert brought == required - {"planish"}


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
CLI = (
    "import sys; sys.argv[0] = 'planish'\nfrom planish.driver.cli import main\n"
    "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end\n"
)


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
    "sklearn": set(),
    "rapidfuzz": set(),
    "pydantic": {"backends/tvm/tune/database.py", "driver/recipe.py", "driver/recipe_file.py"},
}
"""Where a library may be imported when a module is."""
INSIDE_FUNCTIONS = {
    "torch": {"passes/"},
    "networkx": {"passes/"},
    "onnxruntime": {"backends/onnxruntime/"},
    "onnx": {"ir/unranked.py", "ir/verify.py"},
    "scipy": {"passes/", "driver/comparison.py", "driver/evaluation.py", "driver/metrics.py"},
    "sklearn": {"driver/metrics.py"},
    "rapidfuzz": {"driver/metrics.py"},
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


def _names(tree: ast.Module) -> set[str]:
    """What a module's text gives names to, wherever it does."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = {alias.asname or alias.name for node in _imports(tree) for alias in node.names}
    return stored | defined | imported


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_what_benchmarks_import_from_each_other_is_there() -> None:
    """Each is a program that takes minutes, so that none of them is run by a test."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    trees = {file.stem: ast.parse(file.read_text()) for file in files}
    wanted = {
        (name, node.module, alias.name)
        for name, tree in trees.items()
        for node in _imports(tree)
        if node.module in trees
        for alias in node.names
    }
    assert len(wanted) > len(files)
    assert not sorted(it for it in wanted if it[2] not in _names(trees[it[1]]))
