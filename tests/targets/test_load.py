"""Targets by name, from files, and from the machine at hand."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from planish import targets
from planish.ir.errors import UsageError
from planish.targets import Target
from planish.targets.cpu import VARIABLE, this_cpu
from planish.targets.load import is_at_hand, load_target, native, target_names

ZEN5 = """processor : 0
vendor_id : AuthenticAMD
cpu family : 26
flags : fpu vme de pse tsc cmov mmx fxsr sse sse2 pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave \
avx f16c rdrand lahf_lm abm sse4a fsgsbase tsc_adjust bmi1 avx2 bmi2 avx512f avx512dq rdseed adx avx512ifma clflushopt \
clwb avx512cd sha_ni avx512bw avx512vl xsaveopt xsavec avx_vnni avx512_bf16 clzero avx512vbmi pku avx512_vbmi2 gfni \
vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq rdpid movdiri movdir64b avx512_vp2intersect flush_l1d
"""
FOLDER = Path(targets.__file__).parent
N1 = """processor : 0
Features : fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer : 0x41
CPU part : 0xd0c
"""


@pytest.mark.parametrize("name", target_names())
def test_every_target_that_comes_along_loads(name):
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.mcpu
    assert target.threads > 0


def test_eight_bit_weights_need_vnni_on_x86():
    assert load_target("x86-64-avx2").int8.weight_bits == 7
    assert load_target("x86-64-avx512-vnni").int8.weight_bits == 8


def test_dynamic_quantization_is_never_profitable_for_convolutions():
    for target in map(load_target, target_names()):
        if target.int8 is not None:
            assert all("Conv" not in operators for operators in target.int8.dynamic_operators.values())


def test_native_is_this_machine():
    target = native()
    assert target.name == "native"
    assert target.threads == len(os.sched_getaffinity(0))
    assert target.features


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Lets the detection see a CPU: what Linux's file says on it, and features that are taken out of that."""

    def see(text: str, *hidden: str) -> Target:
        file = tmp_path / "cpuinfo"
        file.write_text("".join(word for word in re.split(r"(\s)", text) if word not in hidden))
        monkeypatch.setenv(VARIABLE, str(file))
        native.cache_clear()
        return native()

    yield see
    native.cache_clear()


@pytest.mark.parametrize("hidden", ["rdseed", "pku", "flush_l1d", "tsc_adjust"])
def test_what_no_kernel_uses_changes_nothing_if_it_is_hidden(cpuinfo, hidden):
    """Linux hides rdseed on a Zen 5 whose random numbers aren't random."""
    whole, masked = cpuinfo(ZEN5), cpuinfo(ZEN5, hidden)
    assert (masked.mcpu, masked.features) == (whole.mcpu, whole.features)
    assert masked.mcpu == "znver5"
    assert {"avx512_bf16", "avx512vbmi", "gfni"} <= masked.features


def test_what_is_built_on_something_hidden_is_not_claimed(cpuinfo):
    """LLVM turns on what a set builds on, so a compiler that is told of VBMI would use byte instructions too."""
    target = cpuinfo(ZEN5, "avx512bw")
    assert "avx512f" in target.features
    assert not {"avx512bw", "avx512vbmi", "avx512_bf16"} & target.features
    assert target.int8.weight_bits == 8  # AVX-VNNI is still there
    assert not target.bfloat16


def test_a_cpu_of_an_unknown_vendor_is_ordered_for_as_any(cpuinfo):
    target = cpuinfo(ZEN5.replace("AuthenticAMD", "Nobody"))
    assert target.mcpu == "x86-64-v4"
    assert "avx512_vnni" in target.features


def test_a_copy_of_cpuinfo_and_archspecs_names_are_targets(tmp_path):
    (tmp_path / "box").write_text(N1 + "\n" + N1.replace("processor : 0", "processor : 1"))
    copied, named = load_target(tmp_path / "box"), load_target("neoverse_n1")
    assert (copied.architecture, copied.mcpu, copied.threads) == ("aarch64", "neoverse-n1", 2)
    assert copied.features == named.features
    assert "asimddp" in named.features


def test_cores_that_differ_have_what_all_of_them_have(tmp_path):
    (tmp_path / "box").write_text(N1 + "\n" + N1.replace(" asimddp", "").replace("0xd0c", "0xd05"))
    target = load_target(tmp_path / "box")
    assert (target.mcpu, target.threads) == ("neoverse-n1", 2)
    assert "asimddp" not in target.features


@pytest.mark.parametrize("text", [None, "no cpu at all"])
def test_a_stated_cpu_that_isn_t_one_is_refused(tmp_path, monkeypatch, text):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
        with pytest.raises(UsageError, match=r"cpuinfo is neither a TOML file .* nor a copy of /proc/cpuinfo"):
            load_target(tmp_path / "cpuinfo")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cpuinfo"))
    with pytest.raises(UsageError, match=f"{VARIABLE}: .*cpuinfo"):
        this_cpu()


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'x86-64-avx512'"):
        load_target("x86-64-avx521")


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match=r"board\.toml"):
        load_target("board.toml")


@pytest.mark.parametrize(
    ("text", "named"), [("name = ", "board.toml"), ('descriptiom = "x"', "descriptiom"), ('threads = "two"', "threads")]
)
def test_a_broken_file_is_named_with_its_key(tmp_path, text, named):
    file = tmp_path / "board.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=named):
        load_target(file)


def test_a_target_takes_over_what_it_does_not_say_itself():
    base, target = load_target("x86-64-avx512-vnni"), load_target("x86-64-avx512-bf16")
    assert (target.int8, target.fused) == (base.int8, base.fused)
    assert target.features - base.features == {"avx512_bf16"}
    assert load_target("x86-64-zen4").features == target.features


def test_what_an_instruction_gains_is_said_of_the_cpu_and_not_of_all_that_have_it(tmp_path):
    """Zen 4 multiplies bfloat16 at twice the rate of float32, Intel's servers at half of it."""
    assert "MatMul" in load_target("zen4").bfloat16["tvm"]
    assert load_target("zen4").bfloat16_operators("tvm")
    assert not load_target("zen4").bfloat16_operators("onnxruntime")
    for name in ("sapphirerapids", "zen5", "x86-64-avx512-bf16"):
        assert "avx512_bf16" in load_target(name).features
        assert not load_target(name).bfloat16


def test_the_machine_at_hand_is_known_by_what_it_is():
    here = native()
    assert is_at_hand(replace(here, name="box", threads=here.threads + 1))
    assert not is_at_hand(replace(here, mcpu="another"))


def test_a_missing_target_that_is_extended_is_named(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text('extends = "circuit"', encoding="utf-8")
    with pytest.raises(UsageError, match=r"board\.toml: key 'extends': .*circuit\.toml"):
        load_target(file)


def test_a_file_extends_a_target_of_planishs(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text('extends = "x86-64-avx2"\nthreads = 2', encoding="utf-8")
    board, base = load_target(file), load_target("x86-64-avx2")
    assert (board.name, board.threads, board.features, board.int8) == ("board", 2, base.features, base.int8)
    file.write_text('extends = "x86-64-avx"', encoding="utf-8")
    with pytest.raises(UsageError, match="did you mean 'x86-64-avx2'"):
        load_target(file)


@pytest.mark.parametrize("base", ['"../other"', '"/etc/passwd"', f'"{"x" * 4000}"', '"a*b"', '"a\\u0000b"', "7", "[]"])
def test_what_is_no_name_is_not_extended(tmp_path, base):
    file = tmp_path / "board.toml"
    file.write_text(f"extends = {base}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"board\.toml: key 'extends' must be the name of a target, not "):
        load_target(file)


def test_arrays_in_arrays_without_end_are_no_target(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text(f"features = {'[' * 10_000}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"board\.toml: not a TOML file"):
        load_target(file)


def test_targets_that_extend_each_other_are_named(tmp_path):
    for name, base in (("one", "two"), ("two", "one"), ("self", "self")):
        (tmp_path / f"{name}.toml").write_text(f'extends = "{base}"', encoding="utf-8")
    for name in ("one", "self"):
        with pytest.raises(UsageError, match=r"key 'extends': .* extends it in turn"):
            load_target(tmp_path / f"{name}.toml")


def test_an_unknown_feature_is_named_with_its_file(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text('extends = "x86-64"\nfeatures = ["avx512-vnni"]', encoding="utf-8")
    for name in target_names():  # beside which it stands
        (tmp_path / f"{name}.toml").write_text((FOLDER / f"{name}.toml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"board\.toml: key 'features': unknown feature .*did you mean 'avx512_vnni'"):
        load_target(file)
