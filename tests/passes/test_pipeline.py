"""Pipelines are text that reads back; what can't be read is refused with the nearest name."""

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt, Unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planish.ir.errors import UsageError
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.cleanup.cse import CommonSubexpressionElimination
from planish.passes.fixpoint import Fixpoint
from planish.passes.group import Group
from planish.passes.options import Option, options_of
from planish.passes.order import OF_SOURCES
from planish.passes.pipeline import (
    PRESETS,
    find_pass,
    format_pass,
    format_pipeline,
    make_passes,
    make_pipeline,
    parse_pipeline,
    pass_classes,
)
from planish.passes.rewrite import RewritePass, RewriteRule

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
    names: tuple[str, ...] = ("a", "b")
    size: Annotated[int, Ge(0), Unit("B")] = 64
    part: Annotated[float, Interval(gt=0, le=1), Unit("1")] = 0.25
    kind: Literal["slow", "fast"] = "slow"

    def run(self, graph, context) -> PassResult:
        return PassResult()


class Abstract(Pass):
    name: ClassVar[str] = "abstract"


swish = RewriteRule("swish", lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x), effect=Effect.EXACT)

PLAIN = [kind for kind in pass_classes().values() if not issubclass(kind, Group)]
"""The passes that are not made of others."""

HERE = __name__
"""Pytest imports this file under a name by which a pipeline can, too."""


def values_of(option: Option) -> st.SearchStrategy[Any]:
    """Values that an option may have."""
    if option.choices:
        return st.sampled_from(option.choices)
    if not option.bounds:
        return VALUES[option.type]
    low = max((it.gt if isinstance(it, Gt) else it.ge for it in option.bounds if isinstance(it, Gt | Ge)), default=-2)
    high = min((it.lt if isinstance(it, Lt) else it.le for it in option.bounds if isinstance(it, Lt | Le)), default=100)
    numbers = st.floats(low, high) if option.type is float else st.integers(low, high)
    return numbers.filter(partial(is_allowed, option))  # which leaves out open ends


def is_allowed(option: Option, value: Any) -> bool:
    try:
        option.check(value)
    except ValueError:
        return False
    return True


def instances(kind: type[Pass], **steps: Any) -> st.SearchStrategy[Pass]:
    """A pass with any options."""
    return st.builds(kind, **{option.name: values_of(option) for option in options_of(kind).values()}, **steps)


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Settings for machines that have other work."""


def passes_with_options() -> st.SearchStrategy[Pass]:
    """Every pass, with any options; groups of some, and groups of these."""
    plain = st.one_of([instances(kind) for kind in (*PLAIN, Everything)])
    groups = (Group, Fixpoint)
    return st.recursive(
        plain,
        lambda inner: st.one_of([instances(kind, steps=st.lists(inner, min_size=1).map(tuple)) for kind in groups]),
        max_leaves=4,
    )


@settings(PATIENT, max_examples=40)
@given(st.lists(passes_with_options(), max_size=3).map(tuple))
def test_any_pipeline_reads_back(passes: tuple[Pass, ...]) -> None:
    text = format_pipeline(passes)
    assert parse_pipeline(text) == passes
    assert format_pipeline(parse_pipeline(text)) == text


@pytest.mark.parametrize("kind", pass_classes().values(), ids=lambda kind: kind.name)
def test_every_pass_reads_back_with_any_options(kind: type[Pass]) -> None:
    assert {"only", "skip", "required"} <= options_of(kind).keys()
    own = {field.name for field in dataclasses.fields(kind)} - {"steps"}
    assert own == options_of(kind).keys()
    steps = (
        {"steps": st.lists(passes_with_options(), min_size=1, max_size=3).map(tuple)} if issubclass(kind, Group) else {}
    )

    @settings(PATIENT, max_examples=20)
    @given(instances(kind, **steps))
    def hold(step: Pass) -> None:
        assert parse_pipeline(format_pass(step)) == (step,)

    hold()


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
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
    assert kind.needs <= OF_SOURCES.union(*(other.establishes for other in pass_classes().values()))
    assert (kind.__doc__ or "").strip()
    assert format_pass(kind()) == kind.name
    assert find_pass(kind.name) is kind


def test_options_at_their_defaults_are_left_out() -> None:
    assert format_pass(Everything(ratio=0.25)).partition("{")[2] == "ratio=0.25}"
    assert format_pass(Everything()) == f"{HERE}:Everything"


def test_values_of_every_type() -> None:
    (step,) = parse_pipeline(f"{HERE}:Everything{{size=2KiB,part=50%,kind=fast}}")
    assert step == Everything(size=2048, part=0.5, kind="fast")
    (step,) = parse_pipeline(f'{HERE}:Everything{{ count = -7, ratio=1e-3,loud=False ,mode="a, b", names=x.*|"y|z" }}')
    assert step == Everything(-7, 1e-3, False, "a, b", ("x.*", "y|z"))
    (step,) = parse_pipeline(f"{HERE}:Everything{{names=,mode=}}")
    assert step == Everything(mode="", names=())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"names": ["a|b", 7]}, Everything(names=("a|b", "7"))),
        ({"names": "a|b"}, Everything(names=("a", "b"))),
        ({"names": []}, Everything(names=())),
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
        ({"names": 8}, "option names .* takes texts, not 8"),
        ({"names": None}, "option names .* takes texts, not None"),
        ({"size": "-1"}, "option size .* must be at least 0, not -1"),
        ({"size": "3 apples"}, "option size .* takes a whole number, not '3 apples'"),
        ({"part": "130%"}, "option part .* must be above 0 and at most 1, not 1.3"),
        ({"kind": "fats"}, "option kind .* can't be 'fats'; did you mean 'fast'?"),
        ({"mode": '"\\q"'}, r'is "\\q", which is no quoted text'),
        ({"onyl": "x"}, "has no option 'onyl'; did you mean 'only'?"),
        ({"zzz": 1}, "has no option 'zzz'; there are count, kind, loud, mode, "),
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
        ("xyzzy", "unknown pass 'xyzzy'; see `planish passes`"),
        ("quantize{shceme=int8}", "pass quantize has no option 'shceme'; did you mean 'scheme'?"),
        ("dce{limit=3}", "pass dce has no option 'limit'; there are only, required, skip"),
        ("fold-constants{limit=big}", "option limit of pass fold-constants takes a whole number, not 'big'"),
        ("cleanup{limit=3}", "pass cleanup has no option 'limit'; there are only, required, skip"),
        ("fixpoint", "fixpoint is made of other passes: write them behind it, as in fixpoint(cse,dce)"),
        ("fixpoint(", "a pass's name is missing before 'the end'"),
        ("fixpoint(cse", "the passes of 'fixpoint' have no closing parenthesis"),
        ("cse(dce)", "pass cse takes no passes in parentheses: only groups do, as in fixpoint(cse,dce)"),
        ("cse)", "a comma is missing before ')'"),
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
        (f"{HERE}:swish{{x=1}}", "pass .*:swish has no option 'x'; there are only, required, skip"),
        ("no.such.module:Pass", "pass 'no.such.module:Pass': there is no module 'no' to import"),
        (":Pass", "pass ':Pass': importing its module failed: ValueError"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message).replace(r"\.\*", ".*")):
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
    spelled = format_pipeline(parse_pipeline(PRESETS[name]))
    assert format_pipeline(parse_pipeline(f"{name},dce")) == f"{spelled},dce"
    assert format_pipeline(parse_pipeline(f"{name}{{skip=head*}}")) == f"group({spelled}){{skip=head*}}"


def test_a_rule_is_a_pass_of_its_own() -> None:
    (step,) = parse_pipeline(f"{HERE}:swish")
    assert isinstance(step, RewritePass)
    assert (step.name, step.effect, step.rules) == ("swish", Effect.EXACT, (swish,))
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
        "fuse-rms-norm",
        "quantize",
        "prune-channels",
        "factorize",
        "distill",
    }
    assert expected <= pass_classes().keys()
    assert list(pass_classes()) == sorted(pass_classes())
    assert "everything" not in pass_classes()


THEIRS = """
from dataclasses import dataclass
from planish import Effect, Pass, PassResult, RewriteRule

@dataclass(frozen=True)
class Theirs(Pass):
    name = "theirs"
    effect = Effect.EXACT
    run = lambda self, graph, context: PassResult()

rule = RewriteRule("their-rule", lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x))
"""


def test_another_package_brings_passes_and_rules(install) -> None:
    install("[planish.passes]\ntheirs = others:Theirs\ntheir-rule = others:rule\ncse = others:Theirs\n", THEIRS)
    steps = parse_pipeline("theirs{only=a},their-rule,cse")
    assert format_pipeline(steps) == "theirs{only=a},their-rule,cse"
    assert isinstance(steps[1], RewritePass)
    assert type(steps[2]).__module__ == "planish.passes.cleanup.cse"  # planish's own come first
    with pytest.raises(UsageError, match="unknown pass 'thiers'; did you mean 'theirs'"):
        parse_pipeline("thiers")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("theirs = nowhere:Theirs", "can't be loaded: ModuleNotFoundError: No module named 'nowhere'"),
        ("theirs = others:Thiers", "can't be loaded: AttributeError"),
        ("theirs = others:Effect", "is neither a pass class nor a rewrite rule"),
        ("theirs = others:Pass", "is unfinished: it lacks effect, name, run"),
        ("other-name = others:Theirs", "is called 'theirs', which has to be the name of its entry point"),
    ],
)
def test_a_package_at_fault_is_named_where_its_pass_is_used_and_nowhere_else(install, entry: str, reason: str) -> None:
    install(f"[planish.passes]\n{entry}\n", THEIRS)
    name, _, value = entry.partition(" = ")
    assert [step.name for step in parse_pipeline("cleanup")]
    with pytest.raises(
        UsageError, match=rf"'{name}' in planish.passes, of the package others 1.0 \({value}\), {reason}"
    ):
        parse_pipeline(name)


def test_passes_of_a_preset_are_left_out() -> None:
    names = [step.name for step in parse_pipeline("fuse{without=fuse-gelu|fuse-bias}")]
    assert names == [step.name for step in parse_pipeline("fuse") if step.name not in ("fuse-gelu", "fuse-bias")]
    with pytest.raises(UsageError, match="fuse has no pass 'fuse-geluu' to leave out; did you mean 'fuse-gelu'"):
        parse_pipeline("fuse{without=fuse-geluu}")


def test_steps_are_texts_passes_and_options_by_name() -> None:
    steps = make_pipeline(["cse", CommonSubexpressionElimination(), {"prune-channels": {"ratio": 0.25}}])
    assert format_pipeline(steps) == "cse,cse,prune-channels{ratio=0.25}"
    with pytest.raises(UsageError, match=r"unknown pass 'csee'.*; unknown pass 'dcee'"):
        make_pipeline(["csee", "dcee"])
