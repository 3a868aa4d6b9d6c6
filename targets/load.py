"""Targets by name, from files, and from the machine at hand."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ..ir.errors import UsageError
from ..ir.files import fit_name
from ..ir.plugins import Plugin, plugins
from ..ir.suggestion import nearest
from .cpu import Cpu, described_by, this_cpu
from .features import FEATURES, closed, usable
from .nearest import detected, llvm_name, named, names, nearest_to
from .target import Int8, Target

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_KINDS: dict[type, str] = {str: "a text", int: "a whole number", list: "a list of texts", dict: "a table"}
_NAME = r"[\w.+-]{1,100}"
_KEYS = ("description", "architecture", "mcpu", "features", "threads", "fused", "bfloat16", "int8", "weights")


def target_names() -> tuple[str, ...]:
    """The names of the targets that come with planish, in alphabetical order; `native` is understood as well.

    Those of other packages are in `plugins("targets")`. Each is a `Target`, or the path of its TOML file.
    """
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """The target of a name or a file.

    Args:
        name_or_path: `native`, one of `target_names`, archspec's name of a CPU (`zen4`, `neoverse_v1`), a TOML file, or
            a file with what `/proc/cpuinfo` says on a machine.

    Raises:
        UsageError: there is no such target, or its file is broken; the file and the key are named.
    """
    name, path = str(name_or_path), Path(name_or_path)
    try:
        fit_name(path)
    except ValueError as error:
        raise UsageError(f"unknown target {name!r}: {error}") from error
    if name == "native":
        return native()
    if name in target_names():
        return _read(_FOLDER / f"{name}.toml")
    if path.is_file():
        if path.suffix == ".toml":
            return _read(path)
        return _target(path.name, f"the machine of {path.name}", _described(path))
    if path.suffix == ".toml":
        raise UsageError(f"{name}: there is no such target file")
    if name in plugins("targets"):
        return _plugged(plugins("targets")[name])
    if cpu := named(name):
        return _target(name, f"{name} as archspec knows it", cpu)
    known = ("native", *target_names(), *plugins("targets"), *names())
    raise UsageError(f"unknown target {name!r}{nearest(name, known)}")


def write_target(target: Target, folder: Path) -> Path:
    """Write a target into a folder as a file that `load_target` reads back as the same; returns its path."""
    own = {key: getattr(target, key) for key in ("description", "architecture", "mcpu", "features", "threads")}
    tables: dict[str, Mapping[str, Any]] = {"": own, "fused": target.fused, "bfloat16": target.bfloat16}
    tables |= {f"weights.{bits}": operators for bits, operators in target.weights.items()}
    if target.int8 is not None:
        tables["int8"] = {"activation": target.int8.activation, "weight_bits": target.int8.weight_bits}
        tables |= {f"int8.{key}": getattr(target.int8, key) for key in ("operators", "dynamic_operators")}
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]"] if name and table else []
        lines += [
            f"{json.dumps(key)} = {json.dumps(_listed(value), ensure_ascii=False)}" for key, value in table.items()
        ]
    path = folder / f"{target.name}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _listed(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


@cache
def native() -> Target:
    """The machine at hand, with what its system lets programs use.

    Raises:
        UsageError: planish knows no target for machines of its architecture.
    """
    return _target("native", "this machine", this_cpu() or detected())


def is_at_hand(target: Target) -> bool:
    """Whether a target is the machine at hand, so that what is measured here holds there; threads may differ."""
    try:
        here = native()
    except UsageError:
        return False
    return (target.architecture, target.mcpu, target.features) == (here.architecture, here.mcpu, here.features)


@dataclass(frozen=True, slots=True)
class Detection:
    """What is known of a CPU that a target was made from.

    Attributes:
        cpu: the CPU as its system describes it.
        nearest: archspec's name of the design that it is the most like.
        hidden: the features that the nearest design has and the system doesn't show.
        unfounded: instruction sets that the system shows without one that they build on, so that nothing uses them.
    """

    cpu: Cpu
    nearest: str
    hidden: frozenset[str]
    unfounded: frozenset[str]


def detection(name: str) -> Detection | None:
    """What a target was made from, if that is a CPU's description instead of a TOML file."""
    cpu = _cpu_of(name)
    if cpu is None:
        return None
    features = usable(cpu.architecture, cpu.features)
    near = nearest_to(cpu, features)
    if near is None:
        return None
    known = FEATURES[cpu.architecture].keys()
    return Detection(
        cpu, near.name, frozenset(near.features - cpu.features), frozenset(cpu.features & known - features)
    )


def _cpu_of(name: str) -> Cpu | None:
    """The CPU that a target is made from; None where a TOML file or a package says what the target is."""
    if name == "native":
        return this_cpu() or detected()
    if name in target_names() or Path(name).suffix == ".toml" or name in plugins("targets"):
        return None
    return _described(Path(name)) if Path(name).is_file() else named(name)


def _target(name: str, description: str, cpu: Cpu) -> Target:
    """The most capable target that fits a CPU, with all instruction sets of the CPU and the nearest CPU's name."""
    features = usable(cpu.architecture, cpu.features)
    kin = [target for target in map(load_target, target_names()) if target.architecture == cpu.architecture]
    fitting = [target for target in kin if target.features <= features]
    if not fitting:
        raise UsageError(f"planish has no target for {cpu.architecture} machines; give a TOML file of your own")
    near = nearest_to(cpu, features)
    mcpu = near and llvm_name(near)
    best = max(fitting, key=lambda target: (len(target.features), target.mcpu == mcpu))  # of equals, the first by name
    return replace(
        best,
        name=name,
        description=f"{description}: {best.description}",
        mcpu=mcpu or best.mcpu,
        features=features,
        threads=cpu.threads or best.threads,
    )


def _described(path: Path) -> Cpu:
    """The CPU in a copy of a machine's `/proc/cpuinfo`."""
    try:
        cpu = described_by(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if cpu is None:
        raise UsageError(f"{path} is neither a TOML file (its name would end in .toml) nor a copy of /proc/cpuinfo")
    return cpu


def _plugged(plugin: Plugin) -> Target:
    found = plugin.load()
    if isinstance(found, str | Path) and Path(found).is_file():
        found = _read(Path(found))
    if not isinstance(found, Target):
        raise plugin.fault("is neither a Target nor the path of a TOML file that is there")
    return replace(found, name=plugin.entry.name, features=closed(found.architecture, found.features))


def _read(path: Path) -> Target:
    content = _content(path)
    table = _Table(path, "", content, _KEYS)
    threads = table.take("threads", int)
    if threads < 1:
        raise UsageError(f"{path}: key 'threads' must be at least 1, not {threads}")
    architecture = table.take("architecture", str)
    try:
        features = closed(architecture, table.names("features"))
    except UsageError as error:
        raise UsageError(f"{path}: key 'features': {error}") from error
    return Target(
        name=path.stem,
        description=table.take("description", str),
        architecture=architecture,
        mcpu=table.take("mcpu", str),
        features=features,
        threads=threads,
        int8=_read_int8(path, table.take("int8", dict)) if "int8" in content else None,
        fused=table.sets("fused") if "fused" in content else {},
        bfloat16=table.sets("bfloat16") if "bfloat16" in content else {},
        weights=_read_weights(path, table.take("weights", dict)) if "weights" in content else {},
    )


def _content(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, completed by the target that it extends: a file beside it, or one of planish's own.

    Args:
        path: the path of the file.
        extending: the files that extend it.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from error
    if "extends" not in content:
        return content
    name = content.pop("extends")
    if not (isinstance(name, str) and re.fullmatch(_NAME, name)):
        raise UsageError(f"{path}: key 'extends' must be the name of a target, not {str(name)[:60]!r}")
    base = path.with_name(f"{name}.toml")
    if name in target_names() and (base == path or not base.is_file()):
        base = _FOLDER / base.name
    if not base.is_file():
        known = [*target_names(), *(file.stem for file in path.parent.glob("*.toml") if file != path)]
        raise UsageError(f"{path}: key 'extends': there is no target {base}{nearest(name, known)}")
    if base in extending or base == path:
        raise UsageError(f"{path}: key 'extends': {base} extends it in turn")
    return {**_content(base, (*extending, path)), **content}


def _read_int8(path: Path, content: Mapping[str, Any]) -> Int8:
    table = _Table(path, "int8.", content, ("activation", "weight_bits", "operators", "dynamic_operators"))
    return Int8(
        activation=table.choice("activation", ("uint8", "int8")),
        weight_bits=table.choice("weight_bits", (7, 8)),
        operators=table.sets("operators"),
        dynamic_operators=table.sets("dynamic_operators"),
    )


def _read_weights(path: Path, content: Mapping[str, Any]) -> dict[int, Mapping[str, frozenset[str]]]:
    table = _Table(path, "weights.", content, ("8", "4", "2"))
    return {int(bits): table.sets(bits) for bits in content}


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
                raise UsageError(f"{self.path}: unknown key {self.prefix + key!r}{nearest(key, self.keys)}")

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
