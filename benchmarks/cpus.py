"""Whether kernels are right for CPUs that nobody here has: those of the world, and some that hide or lack something.

    python benchmarks/cpus.py [--only 'zen*'] [--cases 'integer*'] [--root FOLDER] [--jobs 2] [--json RESULTS.json]

For each CPU (`tests/many_cpus/descriptions.py`), a target is made of what Linux says of it. Graphs that ask for every
kernel in every element type are compiled for it; all instructions of the libraries are disassembled, and those are
counted that the CPU hasn't. What the machine at hand or an emulator can run is run, and its results are held to the
interpreter's:

    apt-get install qemu-user       # x86-64 up to AVX2, in an emulator without the flags that the CPU lacks; AArch64

AArch64 needs Python of its own, in a folder that --root names. On Debian:

    dpkg --add-architecture arm64 && apt-get update
    apt-get download {python3.13,libpython3.13}-minimal:arm64 libpython3.13-stdlib:arm64 libc6:arm64 libgcc-s1:arm64 \
        libstdc++6:arm64 zlib1g:arm64 libffi8:arm64 libexpat1:arm64 libssl3t64:arm64 libbz2-1.0:arm64 liblzma5:arm64
    for package in *.deb; do dpkg -x $package ROOT; done; ln -s usr/lib ROOT/lib
    pip install --target ROOT/site --python-version 3.13 --only-binary=:all: --no-deps \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        numpy ml-dtypes archspec apache-tvm apache-tvm-ffi typing-extensions

A death of the compiler ends a process of its own, and is counted. The exit code is 0 if there is no foreign
instruction, no death, no refusal and no wrong result, and every kernel was asked for.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table
from workers import Outcome as Answer
from workers import check_all

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from many_cpus.cases import cases
from many_cpus.descriptions import LEAST, Description, descriptions
from many_cpus.emulators import Emulators
from many_cpus.outcome import Outcome, built, cleared, ran, templates

from planish.targets.cpu import VARIABLE

Alike: TypeAlias = Mapping[str, Sequence[Description]]
WIDTH = 180
"""Characters of a line where the output is no terminal."""
SECONDS = 900.0
"""The time after which a CPU counts as hung."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of all graphs on a CPU."""

    cpu: str
    nearest: str
    features: int
    lanes: int
    bytes_by: str
    bfloat16: bool
    templates: tuple[str, ...]
    kernels: int
    instructions: int
    foreign: tuple[str, ...]
    aborts: tuple[str, ...]
    refused: tuple[str, ...]
    equal: int
    total: int
    wrong: tuple[str, ...]
    where: str

    @property
    def is_right(self) -> bool:
        return not (self.foreign or self.aborts or self.refused or self.wrong)


# -- one CPU, in a process of its own


def check_cpu(name: str, chosen: tuple[str, ...], alike: Alike, root: Path | None, folder: Path) -> dict[str, Answer]:
    """What becomes of each case on a CPU and those like it, as JSON: code may use what all of them have."""
    flags = frozenset[str].intersection(*(cpu.flags for cpu in alike[name]))
    cpu, home = replace(descriptions()[name], flags=flags), cleared(folder / str(os.getpid()))
    target = _target(descriptions()[name], home)
    least = home / "least"
    least.write_text(descriptions()[LEAST].text, encoding="utf-8")
    os.environ[VARIABLE] = str(least)  # so that no build holds its kernels to the interpreter's: this is done below
    outcomes = {case: built(cases()[case], target, cpu.flags, home / case) for case in chosen}
    used = frozenset[str]().union(*(outcome.used for outcome in outcomes.values()))
    there = [case for case, outcome in outcomes.items() if not outcome.refusal]
    runs = ran(there, cpu, used, Emulators.found(root), home) if there else {}
    return {case: _answer(outcome, runs.get(case)) for case, outcome in outcomes.items()}


def _target(cpu: Description, folder: Path) -> Any:
    from planish.targets.load import load_target

    path = folder / "cpuinfo"
    path.write_text(cpu.text, encoding="utf-8")
    return load_target(path)


def _answer(outcome: Outcome, run: Outcome | None) -> Answer:
    faults, where = (None, "there is no library") if run is None else (run.faults, run.where)
    said = {**asdict(outcome), "faults": faults, "where": where}
    kind = "refused" if outcome.refusal else "wrong" if outcome.foreign or faults else "equal"
    return kind, json.dumps(said, default=sorted)


# -- all of them


def _alike(cpus: Sequence[Description], folder: Path) -> Alike:
    """CPUs by the first one of which planish makes the same target, and so the same libraries."""
    found: dict[Any, list[Description]] = {}
    for cpu in cpus:
        target = _target(cpu, folder)
        found.setdefault((target.architecture, target.mcpu, target.features), []).append(cpu)
    return {group[0].name: group for group in found.values()}


def _row(cpu: Description, answers: Mapping[str, Answer], folder: Path) -> Row:
    import numpy as np

    from planish.backends.tvm.kernels.instructions.int8_dot import Int8Dot
    from planish.backends.tvm.kernels.machine import Machine
    from planish.backends.tvm.llvm import llvm_features

    target = _target(cpu, folder)
    machine = Machine.of(target)
    found = {case: json.loads(text) for case, (kind, text) in answers.items() if kind != "crash"}
    ran = {case: each["faults"] for case, each in found.items() if each["faults"] is not None}
    return Row(
        cpu.name,
        target.mcpu,
        len(llvm_features(target)),
        machine.lanes,
        Int8Dot.of(machine, np.ones((8, 8), np.int8)).mnemonic,
        machine.has_bfloat16,
        tuple(sorted({name for each in found.values() for name in each["kernels"]})),
        sum(each["compiled"] for each in found.values()),
        sum(each["instructions"] for each in found.values()),
        tuple(f"{case}: {text}" for case, each in found.items() for text in each["foreign"]),
        tuple(f"{case}: {text}" for case, (kind, text) in answers.items() if kind == "crash"),
        tuple(f"{case}: {each['refusal']}" for case, each in found.items() if each["refusal"]),
        sum(not faults for faults in ran.values()),
        len(ran),
        tuple(f"{case}: {fault}" for case, faults in ran.items() for fault in faults),
        "; ".join(sorted({each["where"] for each in found.values()})),
    )


def main(
    only: Annotated[str, typer.Option(metavar="PATTERN", help="A glob of the names of CPUs.")] = "*",
    chosen: Annotated[str, typer.Option("--cases", metavar="PATTERN", help="A glob of the names of graphs.")] = "*",
    root: Annotated[Path | None, typer.Option(help="A folder with Python for AArch64, to emulate.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="CPUs that are looked at side by side.")] = os.cpu_count() or 1,
    output: Annotated[Path | None, typer.Option("--json", help="The JSON file to write all that was found to.")] = None,
) -> None:
    """Compile graphs for all CPUs, run what can be run here, and print a table of what is wrong."""
    console = Console(stderr=True)
    cpus = [cpu for name, cpu in descriptions().items() if fnmatchcase(name, only)]
    names = tuple(name for name in cases() if fnmatchcase(name, chosen))
    with tempfile.TemporaryDirectory(prefix="planish-cpus-") as folder:
        os.environ["PLANISH_CACHE"] = folder
        alike = _alike(cpus, Path(folder))
        check = partial(check_cpu, alike=alike, root=root and root.resolve(), folder=Path(folder))
        answers = check_all(check, list(alike), names, jobs, SECONDS)
        rows = [_row(cpu, answers[first], Path(folder)) for first, group in alike.items() for cpu in group]
    Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(rows))
    for row in rows:
        for kind in ("aborts", "refused", "foreign", "wrong"):
            for text in getattr(row, kind)[:5]:
                console.print(f"{row.cpu}: {kind}: {text}", markup=False)
    asked = {name for row in rows for name in row.templates}
    unasked = set(templates()) - asked if (only, chosen) == ("*", "*") else set[str]()
    _report(rows, sorted(unasked), len(names))
    if output is not None:
        output.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    raise typer.Exit(0 if all(row.is_right for row in rows) and not unasked else 1)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "CPU",
        "nearest",
        "features",
        "lanes",
        "int8",
        "bf16",
        "templates",
        "kernels",
        "instructions",
        "foreign",
        "aborts",
    )
    table.add_column("equal")
    table.add_column("where")
    for row in rows:
        table.add_row(
            *(row.cpu, row.nearest, str(row.features), str(row.lanes), row.bytes_by, "pairs" if row.bfloat16 else "-"),
            *(
                str(len(row.templates)),
                str(row.kernels),
                str(row.instructions),
                str(len(row.foreign)),
                str(len(row.aborts)),
            ),
            *(f"{row.equal}/{row.total}", row.where),
        )
    return table


def _report(rows: Sequence[Row], unasked: Sequence[str], graphs: int) -> None:
    """Totals, and what was not looked at."""
    total = {kind: sum(len(getattr(row, kind)) for row in rows) for kind in ("foreign", "aborts", "refused", "wrong")}
    print(f"{len(rows)} CPUs, {graphs} graphs each, {sum(row.instructions for row in rows)} instructions:")
    print(f"{total['foreign']} foreign, {total['aborts']} deaths of the compiler, {total['refused']} refusals")
    print(f"{sum(row.equal for row in rows)} of {sum(row.total for row in rows)} runs equal to the interpreter's")
    skipped = [row for row in rows if not row.total]
    for reason in sorted({row.where for row in skipped}):
        print(f"not run ({reason}): {', '.join(row.cpu for row in skipped if row.where == reason)}")
    if unasked:
        print(f"kernels that no graph asked for: {', '.join(unasked)}")


if __name__ == "__main__":
    typer.run(main)
