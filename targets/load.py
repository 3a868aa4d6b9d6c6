"""Targets by name, from files, and from the machine at hand."""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import archspec.cpu
from archspec.cpu import Microarchitecture, detect

from ..ir.errors import UsageError
from ..ir.plugins import Plugin, plugins
from .target import Int8, Target

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_KINDS: dict[type, str] = {str: "a text", int: "a whole number", list: "a list of texts", dict: "a table"}
_KEYS = ("description", "architecture", "mcpu", "features", "threads", "fused", "bfloat16", "int8", "int4")
_HIDDEN = {"flush_l1d", "pku"}  # virtual machines hide them, compilers don't emit them, archspec asks for them


def target_names() -> tuple[str, ...]:
    """The names of the targets that come with planish, in alphabetical order; `native` is understood as well.

    Those of other packages are in `plugins("targets")`. Each is a `Target`, or the path of its TOML file.
    """
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """The target of a name, of a TOML file, or `native`.

    Raises:
        UsageError: there is no such target, or its file is broken; the file and the key are named.
    """
    name = str(name_or_path)
    if name == "native":
        return native()
    if name in target_names():
        return _read(_FOLDER / f"{name}.toml")
    if Path(name).is_file():
        return _read(Path(name))
    if name.endswith(".toml"):
        raise UsageError(f"{name}: there is no such target file")
    if name in plugins("targets"):
        return _plugged(plugins("targets")[name])
    raise UsageError(f"unknown target {name!r}{_nearest(name, ('native', *target_names(), *plugins('targets')))}")


@cache
def native() -> Target:
    """The machine at hand: the most capable target whose instruction sets it has, with its own CPU name and cores.

    Raises:
        UsageError: there is no target for machines of its kind.
    """
    host = archspec.cpu.host()
    seen = detect.detected_info()
    architecture = str(host.family)
    named = frozenset[str]().union(*(known.features for known in archspec.cpu.TARGETS.values()))
    features = frozenset(host.features | seen.features) & named  # of what the system shows, what code may make use of
    fitting = [
        target
        for target in map(load_target, target_names())
        if target.architecture == architecture and target.features <= features
    ]
    if not fitting:
        raise UsageError(f"planish has no target for {architecture} machines; give a TOML file of your own")
    best = max(fitting, key=lambda target: len(target.features))
    return replace(
        best,
        name="native",
        description=f"this machine: {best.description}",
        mcpu=_mcpu(host, seen) or best.mcpu,
        features=features,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _mcpu(host: Microarchitecture, seen: Microarchitecture) -> str | None:
    """LLVM's name of a CPU; None where only a baseline or a list of extensions is known."""
    x86 = host.family.name == "x86_64"
    if x86:
        visible = {*seen.features, *_HIDDEN}
        kin = (cpu for cpu in archspec.cpu.TARGETS.values() if cpu.vendor == seen.vendor and cpu > host)
        fitting = [cpu for cpu in kin if cpu.features <= visible]
        host = max(fitting, key=lambda cpu: (len(cpu.ancestors), len(cpu.features)), default=host)
    try:
        flags = host.optimization_flags("clang", "18.0")
    except archspec.cpu.UnsupportedMicroarchitecture:
        return None
    option = "-march=" if x86 else "-mcpu="
    names = [flag.removeprefix(option) for flag in flags.split() if flag.startswith(option)]
    return next((name for name in names if not name.startswith("x86-64")), None)


def _plugged(plugin: Plugin) -> Target:
    found = plugin.load()
    if isinstance(found, str | Path) and Path(found).is_file():
        found = _read(Path(found))
    if not isinstance(found, Target):
        raise plugin.fault("is neither a Target nor the path of a TOML file that is there")
    return replace(found, name=plugin.entry.name)


def _read(path: Path) -> Target:
    content = _content(path)
    table = _Table(path, "", content, _KEYS)
    threads = table.take("threads", int)
    if threads < 1:
        raise UsageError(f"{path}: key 'threads' must be at least 1, not {threads}")
    return Target(
        name=path.stem,
        description=table.take("description", str),
        architecture=table.take("architecture", str),
        mcpu=table.take("mcpu", str),
        features=table.names("features"),
        threads=threads,
        int8=_read_int8(path, table.take("int8", dict)) if "int8" in content else None,
        fused=table.sets("fused") if "fused" in content else {},
        bfloat16=table.sets("bfloat16") if "bfloat16" in content else {},
        int4=table.sets("int4") if "int4" in content else {},
    )


def _content(path: Path) -> dict[str, Any]:
    """What a file says, with what it leaves to the one beside it that it extends."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    if "extends" not in content:
        return content
    base = path.with_name(f"{content.pop('extends')}.toml")
    if not base.is_file():
        raise UsageError(f"{path}: key 'extends': there is no target {base}")
    return {**_content(base), **content}


def _read_int8(path: Path, content: Mapping[str, Any]) -> Int8:
    table = _Table(path, "int8.", content, ("activation", "weight_bits", "operators", "dynamic_operators"))
    return Int8(
        activation=table.choice("activation", ("uint8", "int8")),
        weight_bits=table.choice("weight_bits", (7, 8)),
        operators=table.sets("operators"),
        dynamic_operators=table.sets("dynamic_operators"),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a file, which complains by file and key."""

    path: Path
    prefix: str
    content: Mapping[str, Any]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in self.content:
            if key not in self.keys:
                raise UsageError(f"{self.path}: unknown key {self.prefix + key!r}{_nearest(key, self.keys)}")

    def take(self, key: str, kind: type[T]) -> T:
        if key not in self.content:
            raise UsageError(f"{self.path}: key {self.prefix + key!r} is missing")
        value = self.content[key]
        if type(value) is not kind:  # a bool is no int here
            raise UsageError(f"{self.path}: key {self.prefix + key!r} must be {_KINDS[kind]}, not {value!r}")
        return value

    def choice(self, key: str, choices: tuple[T, ...]) -> T:
        value = self.take(key, type(choices[0]))
        if value not in choices:
            options = " or ".join(map(repr, choices))
            raise UsageError(f"{self.path}: key {self.prefix + key!r} must be {options}, not {value!r}")
        return value

    def names(self, key: str) -> frozenset[str]:
        names = self.take(key, list)
        if not all(isinstance(name, str) for name in names):
            raise UsageError(f"{self.path}: key {self.prefix + key!r} must be a list of texts, not {names!r}")
        return frozenset(names)

    def sets(self, key: str) -> dict[str, frozenset[str]]:
        inner = self.take(key, dict)
        table = _Table(self.path, f"{self.prefix}{key}.", inner, tuple(inner))
        return {name: table.names(name) for name in inner}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
