"""The instruction sets that planish knows, and how they build on each other, beside what LLVM says of them."""

import pytest

from planish.ir.errors import UsageError
from planish.targets.features import FEATURES, closed, usable


@pytest.mark.parametrize("architecture", FEATURES)
def test_what_a_set_builds_on_is_what_llvm_turns_on_with_it(architecture):
    codegen = pytest.importorskip("tvm.target.codegen")
    target = pytest.importorskip("tvm.target").Target
    base = {"kind": "llvm", "mtriple": f"{architecture}-linux-gnu"}

    def enabled(*attributes: str) -> set[str]:
        return {str(name) for name in codegen.llvm_get_cpu_features(target({**base, "mattr": list(attributes)}))}

    always = enabled()
    for name, feature in FEATURES[architecture].items():
        if feature.llvm:
            known = {FEATURES[architecture][other].llvm for other in closed(architecture, [name])} - {""}
            assert enabled(f"+{feature.llvm}") - always <= known, name
            assert feature.llvm in enabled(f"+{feature.llvm}"), name


def test_only_what_stands_on_something_visible_is_usable():
    assert usable("x86_64", ["sse", "sse2", "sse3", "avx", "avx2", "aes", "tsc"]) == {"sse", "sse2", "sse3", "aes"}
    assert usable("sparc", ["vis"]) == frozenset()


def test_sse4a_is_left_alone_where_llvm_would_shuffle_with_it():
    assert usable("x86_64", ["sse", "sse2", "sse3", "sse4a"]) == {"sse", "sse2", "sse3"}
    assert "sse4a" in usable("x86_64", ["sse", "sse2", "sse3", "ssse3", "sse4a"])


def test_an_unknown_set_is_named():
    with pytest.raises(UsageError, match="unknown feature 'avx2048' of x86_64"):
        closed("x86_64", ["avx2048"])
