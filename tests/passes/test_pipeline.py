"""Pipelines are text that reads back; what can't be read is refused with the nearest name."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.errors import UsageError
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.pipeline import (
    PRESETS,
    find_pass,
    format_pass,
    format_pipeline,
    make_passes,
    options_of,
    parse_pipeline,
    pass_classes,
)
from planish.passes.rewrite import RewriteRule, RulePass

TEXT = st.text(max_size=8) | st.sampled_from(["", "a|b", 'say "x"', "encoder.*|head", "a\\b", "{}", "x,y=z", "\n", '"'])
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: TEXT,
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
}


@dataclass(frozen=True)
class Everything(Pass):
    """An option of every type, with defaults that are not empty."""

    name: ClassVar[str] = "everything"
    effect: ClassVar[Effect] = Effect.EXACT
    count: int = 3
    ratio: float = 0.5
    loud: bool = True
    mode: str = "fast"
    only: tuple[str, ...] = ("a", "b")

    def run(self, graph, context) -> PassResult:
        return PassResult()


class Abstract(Pass):
    name: ClassVar[str] = "abstract"


swish = RewriteRule("swish", lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x), effect=Effect.EXACT)

HERE = __name__
"""Pytest imports this file under a name by which a pipeline can, too."""


def passes_with_options() -> st.SearchStrategy[Pass]:
    def instances(kind: type[Pass]) -> st.SearchStrategy[Pass]:
        types = get_type_hints(kind)
        return st.builds(kind, **{option.name: VALUES[types[option.name]] for option in options_of(kind)})

    return st.one_of([instances(kind) for kind in (*pass_classes().values(), Everything)])


@settings(deadline=None, max_examples=100)
@given(st.lists(passes_with_options(), max_size=3).map(tuple))
def test_any_pipeline_reads_back(passes: tuple[Pass, ...]) -> None:
    text = format_pipeline(passes)
    assert parse_pipeline(text) == passes
    assert format_pipeline(parse_pipeline(text)) == text


@pytest.mark.parametrize("kind", pass_classes().values(), ids=lambda kind: kind.name)
def test_every_pass_keeps_the_contract(kind: type[Pass]) -> None:
    """Frozen, with defaults for all options, named in kebab-case, in the file and class that say the same."""
    assert dataclasses.is_dataclass(kind)
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().surely_no_option = 1  # type: ignore[attr-defined]
    assert kind.name == kind.__module__.rpartition(".")[2].replace("_", "-")
    assert isinstance(kind.effect, Effect)
    assert set(kind.after) <= pass_classes().keys()
    assert (kind.__doc__ or "").strip()
    assert format_pass(kind()) == kind.name
    assert find_pass(kind.name) is kind


def test_options_at_their_defaults_are_left_out() -> None:
    assert format_pass(Everything(ratio=0.25)).partition("{")[2] == "ratio=0.25}"
    assert format_pass(Everything()) == f"{HERE}:Everything"


def test_values_of_every_type() -> None:
    (step,) = parse_pipeline(f'{HERE}:Everything{{ count = -7, ratio=1e-3,loud=False ,mode="a, b", only=x.*|"y|z" }}')
    assert step == Everything(-7, 1e-3, False, "a, b", ("x.*", "y|z"))
    (step,) = parse_pipeline(f"{HERE}:Everything{{only=,mode=}}")
    assert step == Everything(mode="", only=())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": ["a|b", 7]}, Everything(only=("a|b", "7"))),
        ({"only": "a|b"}, Everything(only=("a", "b"))),
        ({"only": []}, Everything(only=())),
        ({"ratio": 1, "loud": False, "count": "12"}, Everything(12, 1.0, False)),
    ],
)
def test_values_that_a_recipe_has_typed_already(options: dict[str, Any], expected: Everything) -> None:
    assert make_passes(f"{HERE}:Everything", options) == (expected,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "many"}, "option count of pass .* takes a whole number, not 'many'"),
        ({"count": 1.5}, "option count .* takes a whole number, not 1.5"),
        ({"count": True}, "option count .* takes a whole number, not True"),
        ({"ratio": "half"}, "option ratio .* takes a number, not 'half'"),
        ({"ratio": None}, "option ratio .* takes a number, not None"),
        ({"ratio": [1]}, "option ratio .* takes a number"),
        ({"loud": "yes"}, "option loud .* takes true or false, not 'yes'"),
        ({"loud": 1}, "option loud .* takes true or false, not 1"),
        ({"mode": 8}, "option mode .* takes text, not 8"),
        ({"only": 8}, "option only .* takes texts, not 8"),
        ({"only": None}, "option only .* takes texts, not None"),
        ({"mode": '"\\q"'}, r'"\\q" is no quoted text'),
        ({"onyl": "x"}, "has no option 'onyl'; did you mean 'only'?"),
        ({"zzz": 1}, "has no option 'zzz'; there are count, loud, mode, only, ratio"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_passes(f"{HERE}:Everything", options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dec", "unknown pass 'dec'; did you mean 'dce'?"),
        ("fold-constant", "unknown pass 'fold-constant'; did you mean 'fold-constants'?"),
        ("claenup", "unknown pass 'claenup'; did you mean 'cleanup'?"),
        ("quantise{scheme=int8}", "unknown pass 'quantise'; did you mean 'quantize'?"),
        ("xyzzy", "unknown pass 'xyzzy'; there are cleanup, cse, "),
        ("quantize{shceme=int8}", "pass quantize has no option 'shceme'; did you mean 'scheme'?"),
        ("dce{limit=3}", "pass dce has no option 'limit'; it takes none"),
        ("fold-constants{limit=big}", "option limit of pass fold-constants takes a whole number, not 'big'"),
        ("cleanup{limit=3}", "the preset cleanup takes no options; write out its passes instead: "),
        ("dce,,cse", "a pass's name is missing before ','"),
        ("{limit=3}", "a pass's name is missing before '{'"),
        ("dce cse", "a comma is missing before 'cse'"),
        ("dce}", "a comma is missing before '}'"),
        ("fold-constants{limit=3", "the options of 'fold-constants' have no closing brace"),
        ("fold-constants{limit}", "the options of 'fold-constants' are not of the form key=value: limit"),
        ("fold-constants{limit=3=4}", "are not of the form key=value: limit = 3 = 4"),
        ("fold-constants{limit=3 4}", "are not of the form key=value: limit = 3 4"),
        ("fold-constants{=3}", "are not of the form key=value: = 3"),
        ('fold-constants{limit="3}', "'\"3}' makes no sense in the pipeline"),
        (f"{HERE}:Everythin", "no pass class or rewrite rule 'Everythin'; did you mean 'Everything'?"),
        (f"{HERE}:HERE", "no pass class or rewrite rule 'HERE'"),
        (f"{HERE}:Abstract", "pass '.*:Abstract' is unfinished: it lacks effect, run"),
        (f"{HERE}:swish{{x=1}}", "pass .*:swish has no option 'x'; it takes none"),
        ("no.such.module:Pass", "pass 'no.such.module:Pass': there is no module 'no' to import"),
        (":Pass", "pass ':Pass': importing its module failed: ValueError"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("{", r"\{").replace("}", r"\}").replace("?", r"\?")):
        parse_pipeline(text)


def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_when_imported.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    message = "pass 'fails_when_imported:Pass': importing its module failed: ZeroDivisionError: division by zero"
    with pytest.raises(UsageError, match=message):
        parse_pipeline("fails_when_imported:Pass")


def test_an_empty_pipeline_has_no_passes() -> None:
    assert parse_pipeline("") == parse_pipeline("  ") == ()
    assert format_pipeline(()) == ""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stands_for_its_passes(name: str) -> None:
    assert format_pipeline(parse_pipeline(f"{name},dce")) == f"{PRESETS[name]},dce"


def test_a_rule_is_a_pass_of_its_own() -> None:
    (step,) = parse_pipeline(f"{HERE}:swish")
    assert isinstance(step, RulePass)
    assert (step.name, step.effect, step.rule) == ("swish", Effect.EXACT, swish)
    assert format_pass(step) == f"{HERE}:swish"


def test_our_passes_by_module_and_class_are_the_same() -> None:
    from planish.passes.cleanup.dce import DeadCodeElimination

    assert parse_pipeline("planish.passes.cleanup.dce:DeadCodeElimination") == (DeadCodeElimination(),)


def test_all_passes_are_found_and_only_passes() -> None:
    expected = {"fold-constants", "simplify-shapes", "remove-identities", "cse", "dce", "fuse-batch-norm", "fuse-bias"}
    expected |= {
        "fuse-activations",
        "fuse-gelu",
        "fuse-layer-norm",
        "quantize",
        "prune-channels",
        "factorize",
        "distill",
    }
    assert expected <= pass_classes().keys()
    assert list(pass_classes()) == sorted(pass_classes())
    assert "everything" not in pass_classes()


def test_another_package_registers_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point, as its metadata says it."""
    package = tmp_path / "others.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[planish.passes]\nanything = others_passes:Theirs\n")
    (tmp_path / "others_passes.py").write_text(
        "from planish.passes.base import Effect, Pass, PassResult\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Theirs(Pass):\n"
        "    name = 'theirs'\n"
        "    effect = Effect.EXACT\n"
        "    run = lambda self, graph, context: PassResult()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pass_classes.cache_clear()
    try:
        (step,) = parse_pipeline("theirs")
        assert format_pass(step) == "theirs"
    finally:
        pass_classes.cache_clear()
