"""Kernels for CPUs that aren't at hand: what is compiled for one has no instruction that it lacks.

`benchmarks/cpus.py` does this for all CPUs and all graphs, and runs what can be run.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("tvm")

import tvm
from many_cpus.case import Case
from many_cpus.cases import cases
from many_cpus.descriptions import Description, descriptions
from many_cpus.machine_code import foreign_instructions
from many_cpus.outcome import ALWAYS, templates

from planish.backends.legal import legalized
from planish.backends.tvm.codegen.hoisting import hoisted
from planish.backends.tvm.codegen.library import generated, planned
from planish.backends.tvm.kernels.vector_math import ELEMENTS
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.lowering import to_relax
from planish.passes.legalization.origins import Origins
from planish.targets import Target
from planish.targets.load import load_target


@pytest.fixture
def target_of(tmp_path: Path):
    def target_of(cpu: Description) -> Target:
        (tmp_path / "cpuinfo").write_text(cpu.text)
        return load_target(tmp_path / "cpuinfo")

    return target_of


def lowered(case: Case, target: Target) -> tvm.IRModule:
    graph = case.graph()
    return to_relax(legalized(graph, target, "tvm"), Origins.of(graph), target).module


def object_file(case: Case, target: Target, folder: Path) -> Path:
    """The code of all kernels."""
    machine = llvm_target(target)
    module, _ = hoisted(lowered(case, target))
    kernels = (each for _, each in planned(module, machine).module.functions_items())
    together = {str(each.attrs["global_symbol"]): each for each in kernels if isinstance(each, tvm.tirx.PrimFunc)}
    path = folder / "kernels.o"
    generated(tvm.IRModule(together), machine, are_checking=True).write_to_file(str(path), "o")
    return path


def foreign(names: Sequence[str], target: Target, flags: frozenset[str], folder: Path) -> list[str]:
    """The instructions that a CPU lacks, in graphs that were compiled for a target."""
    found: list[str] = []
    for name in names:
        count, parts = foreign_instructions(object_file(cases()[name], target, folder), flags | ALWAYS)
        assert count > 1000
        found += [f"{name}: {each}" for each in parts]
    return found


def test_many_cpus_become_targets(target_of) -> None:
    """Each claims nothing that Linux doesn't say of it."""
    assert len(descriptions()) >= 40
    for cpu in descriptions().values():
        shown = {"pni": "sse3"}
        assert target_of(cpu).features <= {*cpu.flags, *(shown[flag] for flag in cpu.flags & shown.keys())}, cpu.name


CPUS = {
    "zen5 without rdseed": ["pixels of bytes"],
    "zen4 without bf16": ["norms that are rounded"],
    "vbmi without vnni": ["products by 4 bits"],
    "avx512 without bw alone": ["integer products"],
    "avx512f alone": ["products by 4 bits", "quantizers"],
    "avx10.2 without avx512": ["first layers"],
    "avx2 alone": ["rows", "recurrent layers"],
    "sse2 alone": ["integer products by row"],
    "neoverse_v1": ["quantizers", "attention", "recurrent layers"],
    "neoverse-n1 without dot products": ["first layers"],
    "m1": ["products by 4 bits"],
}
"""Graphs, for some CPUs, whose kernels differ by what the CPU hides."""


@pytest.mark.wide
@pytest.mark.parametrize("name", CPUS)
def test_no_instruction_is_foreign(name: str, target_of, tmp_path: Path) -> None:
    cpu = descriptions()[name]
    assert not foreign(CPUS[name], target_of(cpu), cpu.flags, tmp_path)


@pytest.mark.parametrize(
    ("built_for", "claimed", "case", "missing"),
    [
        ("zen4", "zen4 without bf16", "norms that are rounded", "avx512_bf16"),
        ("haswell", "avx2 without fma", "products by 4 bits", "fma"),
        ("neoverse_n1", "neoverse-n1 without dot products", "first layers", "asimddp"),
    ],
)
def test_a_foreign_instruction_is_found(built_for, claimed, case, missing, target_of, tmp_path: Path) -> None:
    found = foreign([case], target_of(descriptions()[built_for]), descriptions()[claimed].flags, tmp_path)
    assert found and all(missing in each for each in found)


def test_graphs_ask_for_every_kernel_and_every_element(target_of) -> None:
    """The CPU has all there is; kernels of the list are what templates write."""
    target = target_of(descriptions()["zen5"])
    for template in templates().values():
        template.cache_clear()
    for case in cases().values():
        lowered(case, target)
    assert not [name for name, template in templates().items() if not template.cache_info().misses]
    written = {node.operator for case in cases().values() for node in legalized(case.graph(), target, "tvm").nodes}
    assert ELEMENTS.keys() - written == {"Table"}  # which the lowering makes of bytes' steps
