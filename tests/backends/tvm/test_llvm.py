"""What LLVM is told of a machine: exactly its instruction sets, whatever its CPU's name would bring along."""

from dataclasses import replace

import pytest

pytest.importorskip("tvm")

from tvm.target import Target as Kind
from tvm.target import codegen

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.llvm import _ALWAYS, _TUNING, llvm_features, llvm_target, triple
from planish.ir.errors import TargetError, UsageError
from planish.targets.features import FEATURES, closed
from planish.targets.load import load_target, target_names


def cpus(architecture: str) -> list[str]:
    return [
        str(name) for name in codegen.llvm_get_cpu_archlist(Kind({"kind": "llvm", "mtriple": triple(architecture)}))
    ]


@pytest.mark.parametrize("architecture", FEATURES)
def test_a_cpus_name_brings_no_instructions_along(architecture):
    """Whatever LLVM's newest CPUs have: they are told what a plain machine has."""
    plain = load_target("x86-64" if architecture == "x86_64" else "aarch64")
    for mcpu in cpus(architecture):
        assert llvm_features(replace(plain, mcpu=mcpu)) == _ALWAYS[architecture], mcpu


@pytest.mark.parametrize("architecture", FEATURES)
def test_what_tells_speed_is_kept(architecture):
    for mcpu in cpus(architecture):
        target = replace(load_target("x86-64" if architecture == "x86_64" else "aarch64"), mcpu=mcpu)
        bare = Kind({"kind": "llvm", "mtriple": triple(architecture), "mcpu": mcpu})
        tuning, kept = (
            {str(name) for name in codegen.llvm_get_cpu_features(kind) if _TUNING.fullmatch(str(name))}
            for kind in (bare, llvm_target(target))
        )
        assert kept <= tuning, mcpu
        assert tuning - kept <= {mcpu}  # one design's name stands for some of its instructions, too


@pytest.mark.parametrize("name", [*target_names(), "native", "zen5", "mic_knl", "neoverse_v2"])
def test_a_target_is_told_as_it_claims(name):
    target = load_target(name)
    claimed = {FEATURES[target.architecture][feature].llvm for feature in target.features} - {""}
    assert llvm_features(target) == claimed | _ALWAYS[target.architecture]


@pytest.mark.parametrize("feature", FEATURES["x86_64"])
def test_what_a_system_hides_no_kernel_asks_for(feature):
    """Any one set of a machine that has all of them is hidden, and with it what builds on it."""
    whole = load_target("zen6")
    left = frozenset(name for name in whole.features if feature not in closed("x86_64", [name]))
    target = replace(whole, features=left)
    machine, told = Machine.of(target), llvm_features(target)
    assert FEATURES["x86_64"][feature].llvm not in told - _ALWAYS["x86_64"]
    assert machine.lanes < 16 or {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= told
    assert machine.has_tables <= ("avx512vbmi" in told)
    assert machine.has_bfloat16 <= ("avx512bf16" in told)
    assert machine.has_dots <= bool({"avx512vnni", "avxvnni"} & told)


def test_a_cpu_that_llvm_doesn_t_know_is_named():
    target = replace(load_target("x86-64"), name="box", mcpu="znver44")
    with pytest.raises(TargetError, match="box: LLVM knows no CPU 'znver44'; did you mean 'znver4'"):
        llvm_target(target)


def test_an_unknown_instruction_set_is_named():
    with pytest.raises(UsageError, match="unknown feature 'avx512-vnni' of x86_64; did you mean 'avx512_vnni'"):
        llvm_target(replace(load_target("x86-64"), features=frozenset({"avx512-vnni"})))
