"""What the documentation shows is true: its code runs and its recipe reads."""

import re
from pathlib import Path

import pytest

import planish
from planish.backends.legal import legalized
from planish.driver.instruments import make_instruments
from planish.driver.recipe import Search
from planish.driver.recipe_file import make_recipe, read_recipe
from planish.driver.user_code import isolated_imports, resolve
from planish.ir import errors
from planish.ir.ops import operators
from planish.ir.text import parse_graph, print_graph
from planish.passes.legalization.origins import Origins
from planish.targets.load import load_target

DOCS = Path(__file__).parents[2] / "docs"


def blocks(file: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / file).read_text(encoding="utf-8"), re.DOTALL)


def test_the_passes_of_the_documentation_work(folder: Path) -> None:
    (folder / "my_passes.py").write_text("\n".join(blocks("passes.md", "python")))
    with isolated_imports(folder):
        graph = planish.read("net.planish")
        result = planish.optimize(graph, "my_passes:ClampedRelu{limit=4},my_passes:swish,my_passes:join_products")
        products = """graph "main"(%x: float32[3, 2], %v: float32[2, 2]) {
          const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
          const %k: float32[2, 2] = [5.0, 6.0, 7.0, 8.0]
          %a: float32[3, 2] = MatMul(%x, %w)
          %b: float32[3, 2] = MatMul(%x, %v)
          %c: float32[3, 2] = MatMul(%x, %k)
          return a = %a, b = %b, c = %c
        }"""
        joined = planish.optimize(parse_graph(products, {}), "my_passes:join_products,fold-constants")
    assert [node.operator for node in result.graph.nodes] == ["Gemm", "Clip", "Gemm"]
    assert [record.result.changed for record in result.records] == [True, False, False]
    assert [node.operator for node in joined.graph.nodes] == ["MatMul", "MatMul", "Split"]


def test_what_the_documentation_adds_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meaning, instrument = blocks("extending.md", "python")
    (folder / "meaning.py").write_text(meaning)
    (folder / "largest.py").write_text(instrument)
    graph = parse_graph("""graph "main"(%x: float32[n, 4]) {
      %y: float32[n, 4] = acme::SquaredRelu(%x) {gain = 0.5}
      return y = %y
    }""")
    with isolated_imports(folder):
        resolve("meaning.py:squared_relu", folder)
        legal = planish.optimize(graph, "legalize,fold-constants", instruments=make_instruments(["largest.py:Largest"]))
    del operators()["acme::SquaredRelu"]  # or other tests would know it too
    assert [node.operator for node in legal.graph.nodes] == ["Relu", "Mul", "Mul"]
    assert "largest after legalize: %" in capsys.readouterr().err


def test_the_python_of_the_readme_works_whatever_the_inputs_are_called(folder: Path) -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    with isolated_imports(folder):
        module, (x,), _ = resolve("model.py:build", folder)()
    exec(code, {"module": module, "x": x, "calibration": [x.numpy() + 1]})  # the file is our own
    assert (folder / "optimized.onnx").is_file()


def test_the_model_of_the_architecture_is_followed(folder: Path) -> None:
    (code,), texts = blocks("architecture.md", "python"), blocks("architecture.md", "text")
    (folder / "net.py").write_text(code)
    with isolated_imports(folder):
        traced = resolve("net.py:trace", folder)()
    optimized = planish.optimize(traced, "cleanup,fuse").graph
    target = load_target("x86-64-avx512-vnni")
    legal = legalized(optimized, target, "tvm")
    found = [
        re.sub(r' "net.py:\d+"$| @ "" "net.py:\d+"$', "", print_graph(it), flags=re.MULTILINE)
        for it in (traced, optimized, legal)
    ]
    assert [text.strip() for text in texts[1:4]] == [text.strip() for text in found]
    pytest.importorskip("tvm")
    from planish.backends.tvm.relax.lowering import to_relax

    relax = to_relax(legal, Origins.of(legal), target).module["main"].script()
    calls = [re.sub(r"metadata\S* metadata\S*\)", "…)", line.strip()) for line in relax.splitlines() if " = R." in line]
    assert texts[4].split("\n")[:-1] == calls


def test_what_the_architecture_names_is_there() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(named) > 30
    files = {path.relative_to(DOCS.parent).as_posix() for path in DOCS.parent.rglob("*.py")}
    assert not {name for name in named if not any(f"/{file}".find(f"/{name}") >= 0 for file in files)}


def test_the_recipe_of_the_documentation_reads(tmp_path: Path) -> None:
    import yaml

    text, variables, checks, search = blocks("recipes.md", "yaml")
    recipe = make_recipe(yaml.safe_load(text))
    assert recipe.budget.latency == pytest.approx(0.005)
    assert {"quantize", "prune-channels"} <= {step.name for step in recipe.pipeline()}
    (tmp_path / "recipe.yaml").write_text(variables)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert (recipe.passes[1], recipe.output) == ({"prune-channels": {"ratio": 0.3}}, Path("dist/small"))
    assert (
        str(make_recipe({"model": "m.onnx", **yaml.safe_load(checks)}).verify)
        == "numeric,rtol=0.01,probes=4,edges=false"
    )
    assert make_recipe({"model": "m.onnx", **yaml.safe_load(search)}).search == Search()  # the defaults, as it says


def test_a_metric_of_the_documentation_is_marked(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("\n".join(blocks("recipes.md", "python")))
    with isolated_imports(tmp_path):
        assert resolve("metric.py:character_error_rate", tmp_path).lower_is_better


def test_every_error_has_its_line() -> None:
    rows = re.findall(r"\| (\d) \|.*\| `(\w+)` \|", (DOCS / "errors.md").read_text(encoding="utf-8"))
    assert {name: int(code) for code, name in rows} == {
        kind.__name__: kind.exit_code for kind in errors.PlanishError.__subclasses__()
    }
