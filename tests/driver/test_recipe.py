from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.driver.recipe_file import make_recipe, read_recipe
from planish.driver.recipe_schema import recipe_schema
from planish.driver.user_code import isolated_imports
from planish.driver.variables import escape, resolve
from planish.driver.yaml_file import read_yaml
from planish.ir.errors import UsageError
from planish.passes.pipeline import format_pipeline


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "recipe.yaml",
        """
        model: model.py:build
        data: {calibration: data.py:calibration, evaluation: data.npz, metric: spearman}
        target: x86-64
        backend: tvm
        passes:
          - cleanup
          - quantize: {scheme: int8-dynamic, skip: [head, tail]}
          - dce
        budget: {metric_drop: 1%, latency: 5 ms, size: 10 MB}
        output: out/
        verify: {level: numeric, rtol: 0.01}
        """,
    )
    recipe = read_recipe(path)
    assert (recipe.model, recipe.target, recipe.backend) == ("model.py:build", "x86-64", "tvm")
    assert (recipe.data.calibration, recipe.data.evaluation, recipe.data.metric) == (
        "data.py:calibration",
        "data.npz",
        "spearman",
    )
    assert (recipe.budget.metric_drop, recipe.budget.latency, recipe.budget.size) == (0.01, 0.005, 10e6)
    assert recipe.folder / recipe.output == tmp_path / "out"
    assert str(recipe.verify) == "numeric,rtol=0.01"
    text = format_pipeline(recipe.pipeline())
    assert text.startswith("split-sequences,cse,fold-constants,")
    assert text.endswith("quantize{scheme=int8-dynamic,skip=head|tail},dce")


def test_factories_have_options(tmp_path: Path) -> None:
    text = "model: {model.py:build: {width: 16}}\ndata: {calibration: {data.py:draw: {count: 4}}}"
    recipe = read_recipe(write(tmp_path / "recipe.yaml", text))
    assert (recipe.model, recipe.data.calibration) == ('model.py:build{"width": 16}', 'data.py:draw{"count": 4}')


def test_passes_of_the_recipes_folder_are_found(folder: Path) -> None:
    recipe = make_recipe({"model": "m.onnx", "passes": ["passes_of_mine:Negate"], "folder": folder})
    with isolated_imports(folder):
        assert [step.name for step in recipe.pipeline()] == ["negate"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m.onnx\nbudgt: {}", r"(?s)recipe.yaml has 2 .*unknown key 'budgt'; did you mean 'budget'\?"),
        ("model: m.onnx\ndata: {evalation: x}", r"unknown key 'data.evalation'; did you mean 'evaluation'\?"),
        ("model: m.onnx\nfolder: x", "unknown key 'folder'"),
        ("backend: auto", "the key 'model' is missing"),
        ("model: m.onnx\nbudget: {latency: 5}", "'budget.latency': '?5'? is not an amount such as '3 ns'"),
        ("model: m.onnx\nbackend: cuda", "'backend': unknown backend 'cuda'; there are auto, onnxruntime, tvm"),
        ("model: m.onnx\npasses: cleanup", "'passes': expected a list of passes"),
        ("model: m.onnx\nsearch: {minutes: 0}", "'search.minutes': Input should be greater than 0"),
        ("model: m.onnx\npasses: [{dce: 1}]", "'passes': expected `name` or `name: {option: value}`, got {'dce': 1}"),
        ("model: m.onnx\nverify: {rtoll: 1}", "'verify': verify has no setting 'rtoll'; did you mean 'rtol'"),
        ("model: m.onnx\nverify: 3", "'verify': expected a level, or settings by name, got 3"),
        ("model: m.onnx\npasses: [", "recipe.yaml:2 is not YAML"),
        ("just words", "recipe.yaml is not a recipe"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "recipe.yaml", text)
    with pytest.raises(UsageError, match=message.replace("{", r"\{").replace("[", r"\[")):
        read_recipe(path)


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no recipe .*nowhere.yaml"):
        read_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("quantise", r"unknown pass 'quantise'; did you mean 'quantize'\?"),
        ({"quantize": {"schema": "int8"}}, r"no option 'schema'; did you mean 'scheme'\?"),
        ({"prune-channels": {"ratio": "half"}}, "takes a number, not 'half'"),
    ],
)
def test_bad_passes(step: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_recipe({"model": "m.onnx", "passes": [step]}).pipeline()


def test_single_values_are_set_from_the_command_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "recipe.yaml", "model: m.onnx\npasses: [cleanup, distill, {quantize: {scheme: int8}}, cleanup]"
    )
    settings = ["passes.1.steps=7", "passes.quantize.observer=mse", "budget.latency=5 ms", "seed=3"]
    recipe = read_recipe(path, settings=settings)
    assert recipe.passes[1:3] == ({"distill": {"steps": 7}}, {"quantize": {"scheme": "int8", "observer": "mse"}})
    assert (recipe.budget.latency, recipe.seed) == (0.005, 3)
    for setting, message in {
        "seed": "not of the form",
        "passes.cleanup.skip=x": "2 steps are called cleanup; there are cleanup, distill, quantize, cleanup",
        "passes.fuse.skip=x": "0 steps are called fuse",
        "passes.1=dce": "names no option",
        "model.x.y=1": "model has no keys",
        "seed=[": "is not YAML",
    }.items():
        with pytest.raises(UsageError, match=message):
            read_recipe(path, settings=[setting])


def test_a_recipe_includes_another(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "model: m.onnx\nbudget: {latency: 5 ms, size: 1 MB}\npasses: [cleanup]\nseed: 1")
    path = write(tmp_path / "recipe.yaml", "include: base.yaml\nbudget: {size: 2 MB}\npasses: [fuse]")
    recipe = read_recipe(path)
    assert (recipe.model, recipe.seed, recipe.passes) == ("m.onnx", 1, ("fuse",))
    assert (recipe.budget.latency, recipe.budget.size) == (0.005, 2e6)
    with pytest.raises(UsageError, match="includes itself"):
        read_recipe(write(tmp_path / "loop.yaml", "include: loop.yaml"))
    with pytest.raises(UsageError, match="there is no recipe"):
        read_recipe(write(tmp_path / "lost.yaml", "include: nowhere.yaml"))


VARIABLES = """
model: m.onnx
variables: {ratio: 0.4, name: small, seed: 3, limit: 5 ms, kept: true}
passes:
  - "prune-channels{ratio=${ratio},required=${kept}}"
  - prune-channels:
      ratio: ${ratio}
      required: ${kept}
budget: {latency: "${limit}"}
seed: ${seed}
output: ${name}/$${name}-${seed}$
"""


def test_variables_stand_for_their_values(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path / "recipe.yaml", VARIABLES))
    assert recipe.passes == (
        "prune-channels{ratio=0.4,required=true}",
        {"prune-channels": {"ratio": 0.4, "required": True}},
    )
    assert (recipe.budget.latency, recipe.seed, recipe.output) == (0.005, 3, Path("small/${name}-3$"))


SCALARS = st.one_of(st.text().filter(lambda text: "${" not in text), st.integers(), st.floats(), st.booleans())
CONTENT = st.recursive(
    SCALARS | st.text("${}a"), lambda inner: st.lists(inner) | st.dictionaries(st.text("a$"), inner), max_leaves=4
)


@given(st.dictionaries(st.text("abc", min_size=1), SCALARS, min_size=1))
def test_a_variable_alone_keeps_its_type_and_is_text_inside_of_a_longer_one(variables: dict[str, object]) -> None:
    references = {"alone": [f"${{{name}}}" for name in variables], "inside": [f"<${{{name}}}>" for name in variables]}
    resolved, faults = resolve({"variables": variables, **references}, ())
    assert faults == []
    for alone, inside, value in zip(resolved["alone"], resolved["inside"], variables.values(), strict=True):
        assert alone is value
        assert inside == (f"<{value}>" if not isinstance(value, bool) else "<true>" if value else "<false>")


@given(st.dictionaries(st.text("ab"), CONTENT, max_size=2))
def test_what_refers_to_no_variable_stays_as_it_is(content: dict[str, object]) -> None:
    assert repr(resolve(escape(content), ())) == repr((content, []))  # NaN is no number's equal
    if "${" not in repr(content):
        assert repr(escape(content)) == repr(content)


def test_variables_are_set_from_the_command_line_and_by_recipes_that_include_others(tmp_path: Path) -> None:
    base = "model: m.onnx\nvariables: {ratio: 0.4, seed: 1, spare: 2}\nseed: ${seed}\nbudget: {metric_drop: '${ratio}'}"
    write(tmp_path / "base.yaml", base)
    path = write(tmp_path / "recipe.yaml", "include: base.yaml\nvariables: {seed: 5, name: out}\noutput: ${name}")

    def read(*settings: str) -> tuple[object, ...]:
        recipe = read_recipe(path, settings=settings)
        return recipe.seed, recipe.budget.metric_drop, str(recipe.output)

    assert read() == (5, 0.4, "out")
    assert read("variables.seed=7", "variables.ratio=1%") == (7, 0.01, "out")
    assert read("output=else", "seed=${spare}", "variables.spare=3") == (3, 0.4, "else")
    with pytest.raises(UsageError, match=r"'variables.sede' is never used; did you mean 'seed'\?"):
        read("variables.sede=7")


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "variables: {ratio: 0.4}\npasses:\n- dce\n- quantize\n- prune-channels:\n    ratio: ${raito}",
            ["'passes.2.ratio': unknown variable 'raito'; did you mean 'ratio'?", "'variables.ratio' is never used"],
        ),
        ("search: {passes: [[quantize: {skip: [a, '${b}']}]]}", ["'search.passes.0.0.skip.1': unknown variable 'b'"]),
        ("seed: ${PATH}", ["'seed': unknown variable 'PATH'; there is none"]),
        ("target: ${native", ["'target': '${' without '}': write '$${' for a literal one"]),
        ("variables: {a: [1]}\nseed: ${a}", ["'variables.a': expected a text without ${, a number, true or false"]),
        ("variables: {a: 1, b: '${a}'}\nseed: ${b}", ["'variables.b': expected a text without ${"]),
        ("variables: 3", ["'variables': expected names with their values"]),
        ("variabels: {a: 1}\nseed: ${a}", ["unknown variable 'a'", "'variabels'; did you mean 'variables'?"]),
        ("seed: ${a}\nbackend: cuda", ["unknown variable 'a'", "unknown backend 'cuda'"]),
        ("passes: [dce: {skip: ${a}}]", ["recipe.yaml:2 is not YAML", "quote texts with ${...}"]),
    ],
)
def test_bad_variables(tmp_path: Path, text: str, messages: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        read_recipe(write(tmp_path / "recipe.yaml", f"model: m.onnx\n{text}"))
    assert [message for message in messages if message not in str(error.value)] == []


@pytest.mark.wide
def test_the_schema_holds_what_recipes_hold() -> None:
    import jsonschema  # which takes 4 seconds where it knows every format of strings

    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in Path(find_spec("planish").submodule_search_locations[0], "examples").rglob("recipe.yaml"):
        assert list(validator.iter_errors(read_yaml(path))) == [], path
    right = {
        "model": "m.onnx",
        "passes": ["cleanup", {"prune-channels": {"ratio": 0.5}}, {"fuse": {"without": "fuse-gelu"}}],
    }
    assert validator.is_valid({**right, "budget": {"latency": "5 ms", "metric_drop": 0.01}, "verify": {"probes": 4}})
    assert validator.is_valid({**right, "passes": "auto"})
    options = {"scheme": "int${bits}", "required": "${kept}", "block": "${bits}"}
    referring = {"passes": [{"quantize": options}], "seed": "${bits}", "search": {"goal": "${goal}"}}
    variables = {"bits": 8, "kept": True, "goal": "size"}
    assert list(validator.iter_errors({**right, **referring, "variables": variables})) == []
    for wrong in (
        {"passes": ["cleanup"]},
        {**right, "pases": []},
        {**right, "seed": -1},
        {**right, "seed": "1"},
        {**right, "passes": "automatic"},
        {**right, "variables": {"a": [1]}},
        {**right, "variables": {"a": "${b}"}},
        {**right, "budget": {"speed": 1}},
        {**right, "passes": [{"quantize": {"scheme": "int9"}}]},
        {**right, "passes": [{"prune-channels": {"ration": 0.5}}]},
    ):
        assert not validator.is_valid(wrong), wrong
