"""What links libraries for other machines, and what is said where nothing does."""

import sys

import pytest

pytest.importorskip("tvm")

from planish.backends.legal import legalized
from planish.backends.tvm.codegen.build import Build
from planish.backends.tvm.codegen.linker import find_linker
from planish.backends.tvm.llvm import llvm_target
from planish.ir.errors import TargetError
from planish.passes.legalization.origins import Origins
from planish.targets.cpu import architecture
from planish.targets.load import load_target

OTHER = load_target("aarch64-dotprod" if architecture() == "x86_64" else "x86-64-avx2")


def test_llvm_is_told_of_another_machine_alone() -> None:
    assert str(llvm_target(OTHER).attrs["mtriple"]).startswith(OTHER.architecture)
    assert "mtriple" not in llvm_target(load_target("native")).attrs


def test_a_linker_that_is_missing_is_named(make_graph, tmp_path, monkeypatch) -> None:
    """Before anything is compiled."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    graph = make_graph(lambda op, x: op.Relu(x), 2)
    with pytest.raises(TargetError, match=rf"TVM needs a linker for {OTHER.architecture}: pip install ziglang, or"):
        Build(legalized(graph, OTHER, "tvm"), Origins.of(graph), OTHER).write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_linker_says_is_told(tmp_path, monkeypatch) -> None:
    (tmp_path / "ld.lld").write_text("#!/bin/sh\necho no such emulation >&2\nexit 1\n")
    (tmp_path / "ld.lld").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match=f"ld.lld can't link for {OTHER.architecture}: no such emulation"):
        find_linker(OTHER.architecture)("model.so", ["kernel.o"])
