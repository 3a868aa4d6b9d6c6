"""Fused operators are spelled out where a target leaves them out, and only there."""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import planish
from planish.backends.legal import legalized
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.passes.legalization.fused import FUSED, SKIP_NORM
from planish.passes.legalization.legalize import Legalization
from planish.targets import Target
from planish.targets.load import load_target, target_names

NOTHING = replace(load_target("x86-64"), fused={"onnxruntime": frozenset()})
NORMS = """(%x: float32[2, 3, 8], %y: float32[2, 3, 8]) {{
  const %scale: float32[8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
  %sum: float32[2, 3, 8] = Add(%x, %y) @ "layer"
  %norm: float32[2, 3, 8] = LayerNormalization({read}, %scale) {{axis = -1}} @ "layer"
  return {returned}
}}"""
ROWS = "(%x: float32[2, 8, 3, 5], %s: float32[8], %b: float32[8]) {"
BODIES = {
    "Gelu": "%y: float32[2, 8, 3, 5] = Gelu(%x)",
    "Gelu tanh": '%y: float32[2, 8, 3, 5] = Gelu(%x) {approximate = "tanh"}',
    "Mish": "%y: float32[2, 8, 3, 5] = Mish(%x)",
    "HardSwish": "%y: float32[2, 8, 3, 5] = HardSwish(%x)",
    "QuickGelu": "%y: float32[2, 8, 3, 5] = com.microsoft::QuickGelu(%x) {alpha = 1.5}",
    "GroupNormalization": "%y: float32[2, 8, 3, 5] = GroupNormalization(%x, %s, %b) {epsilon = 0.1, num_groups = 4}",
    "InstanceNormalization": "%y: float32[2, 8, 3, 5] = InstanceNormalization(%x, %s, %b) {epsilon = 0.1}",
    "LayerNormalization": """const %scale: float32[3, 5] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1, 0, 1, 0]
      %y: float32[2, 8, 3, 5] = LayerNormalization(%x, %scale, %scale) {axis = 2, epsilon = 0.1}""",
    "LayerNormalization with statistics": """const %scale: float32[5] = [1, 2, 3, 4, 5]
      %z: float32[2, 8, 3, 5], %y: float32[2, 8, 3, 1] = LayerNormalization(%x, %scale) {axis = 3}""",
}


def operators(graph: Graph) -> list[str]:
    return [node.operator for node in graph.nodes]


def assert_equal(one: Graph, other: Graph, feeds: dict[str, np.ndarray]) -> None:
    wanted, got = (Interpreter(graph).run(feeds) for graph in (one, other))
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BODIES)
def test_what_a_target_leaves_out_is_spelled_out(graph_of, feeds_of, context, name: str) -> None:
    graph = graph_of(f'{ROWS} {BODIES[name]} @ "layer" return y = %y }}')
    spelled = legalized(graph, NOTHING, "onnxruntime")
    kept = {"LayerNormalization"} if "statistics" in name else set()
    assert FUSED.keys() & operators(spelled) == kept
    feeds = feeds_of(graph)
    feeds["x"].reshape(-1)[:6] = [-100, -20, -3, 3, 20, 100]
    assert_equal(graph, spelled, feeds)
    planish.compile(graph, backend="onnxruntime", target=NOTHING).run(feeds)


@pytest.mark.parametrize("target", [load_target("x86-64"), replace(NOTHING, fused={"tvm": frozenset()})])
def test_a_target_that_says_nothing_of_the_backend_leaves_all(graph_of, context, target: Target) -> None:
    graph = graph_of(f'{ROWS} {BODIES["GroupNormalization"]} @ "layer" return y = %y }}')
    assert operators(legalized(graph, target, "onnxruntime")) == ["GroupNormalization"]


def test_what_cannot_be_spelled_out_stays(graph_of) -> None:
    graph = graph_of("""(%q: float32[2, heads, 3, 4]) {
      %y: float32[2, heads, 3, 4] = Attention(%q, %q, %q) @ "layer"
      return y = %y
    }""")
    assert operators(legalized(graph, NOTHING, "onnxruntime")) == ["Attention"]


@pytest.mark.parametrize(
    ("attributes", "is_kept"),
    [("", False), ("{rotary_embedding_dim = 2}", False), ("{rotary_embedding_dim = 3}", True)],
)
def test_pairs_are_turned(graph_of, feeds_of, attributes: str, is_kept: bool) -> None:
    size = {"": 2, "{rotary_embedding_dim = 2}": 1, "{rotary_embedding_dim = 3}": 1}[attributes]
    graph = graph_of(f"""(%x: float32[2, 2, 3, 4], %c: float32[2, 3, {size}], %s: float32[2, 3, {size}]) {{
      %y: float32[2, 2, 3, {5 if is_kept else 4}] = RotaryEmbedding(%x, %c, %s) {attributes} @ "layer"
      return y = %y
    }}""")
    spelled = legalized(graph, NOTHING, "onnxruntime")
    assert ("RotaryEmbedding" in operators(spelled)) == is_kept
    assert_equal(graph, spelled, feeds_of(graph))


def test_groups_whose_sums_are_kept_in_double_precision_stay(graph_of) -> None:
    graph = graph_of(f"""{ROWS}
      %y: float32[2, 8, 3, 5] = GroupNormalization(%x, %s, %b) {{num_groups = 4, stash_type = 11}} @ "layer"
      return y = %y
    }}""")
    assert operators(legalized(graph, NOTHING, "onnxruntime")) == ["GroupNormalization"]


def test_scales_and_biases_that_change_nothing_are_not_written(graph_of, feeds_of) -> None:
    graph = graph_of("""(%x: float32[2, 4, 3, 5]) {
      const %ones: float32[4] = [1, 1, 1, 1]
      const %zeros: float32[4] = [0, 0, 0, 0]
      %y: float32[2, 4, 3, 5] = GroupNormalization(%x, %ones, %zeros) {num_groups = 2} @ "layer"
      return y = %y
    }""")
    target = replace(NOTHING, fused={"onnxruntime": frozenset({"InstanceNormalization"})})
    spelled = legalized(graph, target, "onnxruntime")
    assert operators(spelled) == ["Reshape", "InstanceNormalization", "Reshape"]
    assert_equal(graph, spelled, feeds_of(graph))


def test_groups_of_images_of_any_size(graph_of, feeds_of) -> None:
    graph = graph_of("""(%x: float32[batch, 8, 3, width], %s: float32[8]) {
      %y: float32[batch, 8, 3, width] = GroupNormalization(%x, %s, %s) {num_groups = 2} @ "layer"
      return y = %y
    }""")
    assert_equal(graph, legalized(graph, NOTHING, "onnxruntime"), feeds_of(graph))


@pytest.mark.parametrize(
    ("read", "returned", "first"),
    [
        ("%sum", "y = %norm", "Sum"),
        ("%sum", "y = %norm, z = %sum", "Add"),
        ("%x", "y = %norm, z = %sum", "Add"),
    ],
    ids=["read by a norm alone", "an output as well", "not read"],
)
def test_a_sum_that_the_runtime_would_fuse_with_a_norm_is_written_so_that_it_does_not(
    graph_of, feeds_of, read: str, returned: str, first: str
) -> None:
    graph = graph_of(NORMS.format(read=read, returned=returned))
    target = replace(NOTHING, fused={"onnxruntime": FUSED.keys() - {SKIP_NORM}})
    spelled = legalized(graph, target, "onnxruntime")
    assert operators(spelled) == [first, "LayerNormalization"]
    assert_equal(graph, spelled, feeds_of(graph))
    wanting = replace(target, fused={"onnxruntime": frozenset(FUSED)})
    assert operators(legalized(graph, wanting, "onnxruntime")) == ["Add", "LayerNormalization"]


@pytest.mark.parametrize(
    "outputs",
    ["%y: float32[2, 3, 8]", "%y: float32[2, 3, 8], %m: float32[2, 3, 1], %i: float32[2, 3, 1], %s: float32[2, 3, 8]"],
)
def test_the_kernel_itself_is_spelled_out(graph_of, feeds_of, outputs: str) -> None:
    graph = graph_of(f"""(%x: float32[2, 3, 8], %skip: float32[2, 3, 8], %scale: float32[8], %bias: float32[8]) {{
      {outputs} = {SKIP_NORM}(%x, %skip, %scale, %scale, %bias) {{epsilon = 0.1}} @ "layer"
      return y = %y{", s = %s, i = %i" if "%s:" in outputs else ""}
    }}""")
    spelled = legalized(graph, NOTHING, "onnxruntime")
    assert "Sum" in operators(spelled)
    assert_equal(graph, spelled, feeds_of(graph))


@pytest.mark.parametrize("name", target_names())
def test_targets_list_fused_operators_that_there_are(name: str) -> None:
    for listed in load_target(name).fused.values():
        assert listed <= FUSED.keys()


def test_all_of_them_are_measured() -> None:
    assert {case.operator for case in benchmark().cases()} == FUSED.keys()


def test_legalizing_again_finds_nothing(graph_of, context) -> None:
    graph = graph_of(NORMS.format(read="%sum", returned="y = %norm"))
    surroundings = replace(context(graph), target=NOTHING)
    assert Legalization().run(graph, surroundings).changed
    assert not Legalization().run(graph, surroundings).changed


def benchmark() -> ModuleType:
    path = Path(planish.__file__).parent / "benchmarks/fused_kernels.py"
    spec = spec_from_file_location("fused_kernels", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
