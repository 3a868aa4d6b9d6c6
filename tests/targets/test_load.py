"""Targets by name, from files, and from the machine at hand."""

import os

import pytest

from planish.ir.errors import UsageError
from planish.targets.load import load_target, native, target_names


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
    assert "MatMul" in target.bfloat16["tvm"]
    assert not base.bfloat16


def test_a_missing_target_that_is_extended_is_named(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text('extends = "circuit"', encoding="utf-8")
    with pytest.raises(UsageError, match=r"board\.toml: key 'extends': .*circuit\.toml"):
        load_target(file)
