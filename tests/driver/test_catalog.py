"""What `planish passes` and `planish targets` say of each, taken from the classes."""

import json

import pytest

from planish.driver.catalog import describe_pass, describe_target, explain_pass, passes, targets
from planish.driver.docstrings import attributes_of
from planish.ir.errors import UsageError
from planish.passes.options import options_of
from planish.passes.pipeline import PRESETS, pass_classes

THEIRS = '''
"""Noise as a service (Noise et al., "On Noise", 2025)."""
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from annotated_types import Interval, Unit
from planish import Effect, Pass, PassResult

@dataclass(frozen=True)
class Noise(Pass):
    """Add noise to every weight.

    So that nobody can tell
    what it was.

    Attributes:
        share: of the noise: more of it
            drowns the signal.
        kind: `white` or `pink`.

    Raises:
        ModelError: never.
    """

    name: ClassVar[str] = "add-noise"
    effect: ClassVar[Effect] = Effect.LOSSY
    after: ClassVar[tuple[str, ...]] = ("dce",)
    needs: ClassVar[frozenset[str]] = frozenset({"float"})
    share: Annotated[float, Interval(gt=0, le=1), Unit("1")] = 0.5
    kind: Literal["white", "pink"] = "pink"
    note: str = ""

    def run(self, graph, context):
        return PassResult()

box = Path(__file__).with_name("box.toml")
'''
BOX = 'description = "a box"\narchitecture = "x86_64"\nmcpu = "znver4"\nfeatures = ["avx2"]\nthreads = 3\n'


def test_the_documentation_of_a_pass_is_its_class(install) -> None:
    install("[planish.passes]\nadd-noise = others:Noise\n", THEIRS)
    assert explain_pass("add-noise").splitlines()[:22] == [
        "add-noise",
        "",
        "Add noise to every weight.",
        "",
        "So that nobody can tell what it was.",
        "",
        "effect       lossy",
        "max_drift    1.0",
        "after        dce",
        "needs        float",
        "module       others",
        "package      others 1.0",
        "",
        'Noise as a service (Noise et al., "On Noise", 2025).',
        "",
        "options",
        "  share=0.5  a number above 0 and at most 1, or as in 30%",
        "      of the noise: more of it drowns the signal.",
        "  kind=pink  white|pink",
        "      `white` or `pink`.",
        "  note  text",
        "  only  texts",
    ]


def test_other_packages_are_listed_with_what_they_bring(install, tmp_path) -> None:
    install(
        "[planish.passes]\nadd-noise = others:Noise\nbroken = others:Nothing\n[planish.targets]\nbox = others:box\n",
        THEIRS,
    )
    (tmp_path / "site" / "box.toml").write_text(BOX)
    assert passes()["add-noise"] == "Add noise to every weight. (of others 1.0)"
    assert passes()["broken"].startswith("error: the entry point 'broken' in planish.passes, of the package others 1.0")
    assert targets()["box"] == "a box (of others 1.0)"
    assert (describe_target("box")["package"], describe_target("box")["threads"]) == ("others 1.0", 3)


def test_a_target_at_fault_is_named_with_its_package(install) -> None:
    install("[planish.targets]\nbox = others:box\nodd = others:Noise\n", THEIRS)
    assert "nothing" not in targets()
    assert targets()["box"].startswith("error: ")
    with pytest.raises(UsageError, match=r"'odd' in planish.targets, of .* is neither a Target nor the path of a TOML"):
        describe_target("odd")


@pytest.mark.parametrize("name", [*pass_classes(), *PRESETS])
def test_every_pass_and_every_option_is_documented(name: str) -> None:
    described = json.loads(json.dumps(describe_pass(name), allow_nan=False))
    assert described["name"] in explain_pass(name)
    if name in PRESETS:
        return
    assert described["documentation"]
    assert described["about"]
    assert [option for option, about in described["options"].items() if not about["description"]] == []
    fields = {"steps", *options_of(pass_classes()[name])}
    assert attributes_of(pass_classes()[name]).keys() <= fields


def test_a_detected_target_says_what_its_system_hides_and_what_follows(tmp_path) -> None:
    pytest.importorskip("tvm")
    words = "pni ssse3 sse4_1 sse4_2 avx avx2 f16c fma avx512f avx512dq avx512vl avx512cd avx512_vnni avx512vbmi"
    cpuinfo = f"processor : 0\nvendor_id : GenuineIntel\nflags : fpu mmx sse sse2 {words}\n"
    (tmp_path / "box").write_text(cpuinfo)
    described = describe_target(str(tmp_path / "box"))
    assert described["detected"].startswith("GenuineIntel, the most like ")
    assert "avx512bw" in described["masked"]
    assert "xsave" in described["masked without effect"]
    assert described["shown but without foundation"] == {"avx512vbmi": ["avx512bw"]}
    assert described["kernels of tvm"]["float32"] == "16 vectors of 256 bits"
    assert described["kernels of tvm"]["tables of bytes"] == "none"
    assert "detected" not in describe_target("x86-64")
