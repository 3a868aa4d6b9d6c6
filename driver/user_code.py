"""References to Python objects as recipes spell them: `file.py:name` or `package.module:name`."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ..ir.errors import ModelError, PlanishError, UsageError, describe
from ..ir.suggestion import did_you_mean

T = TypeVar("T")


@contextmanager
def isolated_imports(folder: Path) -> Generator[None]:
    """Let modules of a folder be imported by name, then forget them, since two recipes may each have a `data.py`."""
    path, modules = list(sys.path), set(sys.modules)
    _add_to_path(folder)
    try:
        yield
    finally:
        added = set(sys.path) - set(path)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and any(str(parent) in added for parent in Path(file).parents):
                del sys.modules[name]


def resolve(reference: str, folder: Path) -> Any:
    """The object that a reference names; files are relative to the folder, and import their neighbours by name.

    Raises:
        UsageError: there is no such file, module or attribute; the nearest name is suggested.
        ModelError: the user's module fails while it is imported, with its file and line.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UsageError(f"{reference!r} is not of the form file.py:name or package.module:name")
    module = _import_file(folder / place) if place.endswith(".py") else _import_module(place, reference)
    if hasattr(module, name):
        return getattr(module, name)
    raise UsageError(f"{place} has no {name!r}{did_you_mean(name, vars(module))}")


def parse_options(reference: str) -> tuple[str, dict[str, Any]]:
    """A reference without its options, and these: `build{width=16,sizes: [1, 2]}`, whose values are YAML.

    Raises:
        UsageError: what stands in braces makes no sense.
    """
    place, brace, text = reference.partition("{")
    if not brace:
        return reference, {}
    import yaml

    try:
        entries: Any = yaml.safe_load(f"{{{text}")
        options = dict(_option(key, value) for key, value in entries.items())
    except (yaml.YAMLError, AttributeError, ValueError) as error:
        raise UsageError(f"the options of {reference!r} are not of the form {{key=value,key=value}}") from error
    return place, options


def _option(key: Any, value: Any) -> tuple[str, Any]:
    """An option from an entry of a YAML mapping, where `width=16` is a key without a value."""
    if value is not None or "=" not in str(key):
        return str(key), value
    import yaml

    name, _, text = str(key).partition("=")
    return name.strip(), yaml.safe_load(text)


def find_function(reference: str, folder: Path = Path()) -> Callable[..., Any]:
    """A user's function with its options, if the reference names any.

    Raises:
        UsageError: there is no such file, module or function, or it takes other options.
        ModelError: the user's module fails while it is imported.
    """
    place, options = parse_options(reference)
    function = resolve(place, folder)
    if not callable(function):
        raise UsageError(f"{place} is not a function")
    if options:
        signature = inspect.signature(function)
        try:
            signature.bind(**options)
        except TypeError as error:
            raise UsageError(f"{place} takes the options {signature}, and was given others: {error}") from error
    return partial(function, **options)


def make(reference: str, folder: Path) -> Any:
    """What a user's function, named with its options if it takes any, returns.

    Raises:
        UsageError: there is no such file, module or function, or it takes other options.
        ModelError: it raised, with the file and line where it did.
    """
    return call(parse_options(reference)[0], find_function(reference, folder))


def call(reference: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a user's function.

    Raises:
        ModelError: it raised, with the file and line where it did.
    """
    try:
        return function(*arguments)
    except PlanishError:
        raise
    except Exception as error:
        raise ModelError(f"{reference} failed: {describe(error)}") from error


def _add_to_path(folder: Path) -> None:
    if str(folder.resolve()) not in sys.path:
        sys.path.insert(0, str(folder.resolve()))


def _import_file(path: Path) -> ModuleType:
    """Import a file under its own name where that is free, so that its siblings and a reference share one module."""
    if not path.is_file():
        neighbours = [file.name for file in path.parent.glob("*.py")]
        raise UsageError(f"there is no file {path}{did_you_mean(path.name, neighbours)}")
    path = path.resolve()
    _add_to_path(path.parent)
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if loaded is not None:
        name = f"{name} of {path}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        call(str(path), spec.loader.exec_module, module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _import_module(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # a module that the user's module imports
            raise ModelError(f"{reference} failed: {describe(error)}") from error
        raise UsageError(f"{reference}: there is no module {name!r}") from error
    except Exception as error:
        raise ModelError(f"{reference} failed: {describe(error)}") from error
