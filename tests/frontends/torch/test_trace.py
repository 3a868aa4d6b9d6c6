"""From a module to a graph: names, places and weights as the user knows them, and a clear word where that fails."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from planish.frontends.torch import read_pt2, trace
from planish.ir.equal import differences
from planish.ir.errors import ModelError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify

Agrees = Callable[[Graph, nn.Module, tuple[Tensor, ...]], None]
BATCH = Dim("batch")


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.sin(self.fc(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) * 2


# -- inputs and outputs


def test_inputs_keep_their_names_and_outputs_are_numbered() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor, mask: Tensor, *, extra: dict[str, Tensor]) -> tuple[Any, ...]:
            return image + extra["bias"], None, {"masked": image * mask}

    inputs = torch.ones(2, 3), torch.zeros(2, 3)
    graph = trace(Two(), inputs, {"extra": {"bias": torch.ones(3)}})
    assert graph.name == "Two"
    assert [str(value) for value in map(repr, graph.inputs)] == [
        "%image: float32[2, 3]",
        "%mask: float32[2, 3]",
        "%extra_bias: float32[3]",
    ]
    assert list(graph.outputs) == ["output", "masked"]
    fed = {
        "image": np.ones((2, 3), np.float32),
        "mask": np.zeros((2, 3), np.float32),
        "extra_bias": np.full(3, 2, np.float32),
    }
    outputs = Interpreter(graph).run(fed)
    assert (outputs["output"] == 3).all()
    assert (outputs["masked"] == 0).all()


def test_an_input_or_a_weight_may_be_returned_as_it_is(agrees: Agrees) -> None:
    weight = torch.randn(3)
    module = Apply(lambda x: (x, x, weight))
    module.register_buffer("weight", weight)
    graph = trace(module, (torch.randn(2),))
    assert len(graph) == 0
    agrees(graph, module, (torch.randn(2),))


def test_of_what_a_model_returns_the_tensors_are_outputs() -> None:
    module = Apply(
        lambda x: {"sum": x.sum(), "others": (5, 0.5, True, "cat", None), "area": x.shape[0] * 3, "x": x + 1}
    )
    graph = trace(module, (torch.ones(2, 3),), dynamic_shapes=(({0: BATCH},),))
    assert [value.type.rank for value in graph.outputs.values()] == [0, 2]


class Cache:
    """What a model may return that torch knows nothing of."""

    def __init__(self) -> None:
        self.owner = self
        self.layers: list[Any] = []
        self.length = 3


@dataclass(slots=True)
class Layer:
    keys: Tensor
    dtype: torch.dtype
    values: Tensor | None


def test_tensors_in_objects_of_the_models_own_are_returned_in_order() -> None:
    def remember(x: Tensor) -> tuple[Any, ...]:
        cache = Cache()
        cache.layers = [Layer(x + 1, x.dtype, x + 2), Layer(x + 3, x.dtype, None)]
        return x, cache, {"last": x + 4}

    module = Apply(remember)
    graph = trace(module, (torch.zeros(2),))
    assert "forward" not in vars(module)
    outputs = Interpreter(graph).run({"inputs_0": np.zeros(2, np.float32)})
    assert [array.tolist() for array in outputs.values()] == [[n, n] for n in range(5)]


def test_one_tensor_as_two_examples_stands_for_two_inputs(agrees: Agrees) -> None:
    module = Apply(lambda a, b: a - b)
    x = torch.randn(4, 3)
    graph = trace(module, (x, x), dynamic_shapes=(({0: BATCH}, {0: BATCH}),))
    agrees(graph, module, (torch.randn(5, 3), torch.randn(5, 3)))


def test_an_input_that_nothing_reads_stays_an_input() -> None:
    graph = trace(Apply(lambda a, b: a + 1), (torch.ones(2), torch.ones(3)))
    assert len(graph.inputs) == 2


# -- symbolic sizes


@pytest.mark.parametrize(
    ("specification", "names"),
    [
        (({0: BATCH}, {0: BATCH, 1: Dim("width")}), ("batch", "width")),
        (((BATCH, None), (BATCH, Dim("width"))), ("batch", "width")),
        ({"second": {0: BATCH, 1: Dim("width")}, "first": {0: BATCH}}, ("batch", "width")),
        (({0: Dim.AUTO}, {0: Dim.AUTO, 1: Dim.DYNAMIC}), ("first_0", "second_1")),
    ],
)
def test_symbols_have_the_users_names(specification: Any, names: tuple[str, str]) -> None:
    class Scale(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return (first.sum(1, keepdim=True) * second).flatten()

    graph = trace(Scale(), (torch.ones(4, 3), torch.ones(4, 5)), dynamic_shapes=specification)
    batch, width = names
    assert [value.shape for value in graph.inputs] == [(batch, 3), (batch, width)]
    assert graph.outputs["output"].shape == (f"{batch} * {width}",)


@pytest.mark.parametrize("first", [{}, None, (None, None)])
def test_a_specification_of_nothing_is_not_taken_for_the_next_inputs(first: Any) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return a + 1, b + 1

    graph = trace(Two(), (torch.ones(4, 3), torch.ones(7, 2)), dynamic_shapes=(first, {0: BATCH}))
    assert [value.shape for value in graph.inputs] == [(4, 3), ("batch", 2)]


class Maskable(nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * x if mask is None else x * mask


def test_a_specification_may_name_a_parameter_that_is_left_at_its_default() -> None:
    shapes = {"x": {0: Dim("batch")}, "mask": {0: Dim("batch")}}
    for examples in ((torch.ones(2, 3),), {"x": torch.ones(2, 3), "mask": None}):
        graph = trace(Maskable(), examples, dynamic_shapes=shapes)
        assert {value.name: value.shape for value in graph.inputs} == {"x": ("batch", 3)}
    with pytest.raises(ModelError, match="maks"):
        trace(Maskable(), (torch.ones(2, 3),), dynamic_shapes={**shapes, "maks": {0: Dim("batch")}})


def test_specifications_are_nested_as_the_inputs_are() -> None:
    class Nested(nn.Module):
        def forward(self, x: Tensor, state: dict[str, Tensor], rest: list[Tensor], *, last: Tensor) -> Tensor:
            return x + state["a"] + rest[0] + last + state["b"].sum()

    x = torch.ones(4, 3)
    graph = trace(
        Nested(),
        (x, {"b": torch.ones(6), "a": x}, [x]),
        {"last": x},
        {
            "last": {0: BATCH},
            "rest": [{0: BATCH}],
            "state": {"a": {0: BATCH}, "b": {0: Dim("length")}},
            "x": {0: BATCH},
        },
    )
    shapes = {value.name: value.shape for value in graph.inputs}
    assert shapes == {
        "x": ("batch", 3),
        "state_b": ("length",),
        "state_a": ("batch", 3),
        "rest_0": ("batch", 3),
        "last": ("batch", 3),
    }


@pytest.mark.parametrize("examples", [torch.ones(2, 3), np.ones((2, 3), np.float32), {"x": torch.ones(2, 3)}])
def test_a_lone_example_needs_no_tuple_and_a_dict_means_keywords(examples: Any) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
            return x * 2 if bias is None else x + bias

    dynamic = {"x": {0: BATCH}} if isinstance(examples, dict) else {0: BATCH}
    graph = trace(Doubled(), examples, dynamic_shapes=dynamic)
    assert [(value.name, value.shape) for value in graph.inputs] == [("x", ("batch", 3))]


@dataclass
class Answer:
    logits: Tensor
    states: tuple[Tensor, ...]
    x: Tensor


def test_outputs_have_the_names_that_the_module_gives_them() -> None:
    graph = trace(Apply(lambda x: Answer(x + 1, (x, x * 2), x + 2)), torch.ones(2))
    assert list(graph.outputs) == ["logits", "states_0", "states_1", "x"]
    graph = trace(Apply(lambda inputs_0: (inputs_0, {"inputs_0": inputs_0 + 1, "a-b": inputs_0 + 2})), torch.ones(2))
    assert list(graph.outputs) == ["output", "inputs_0_1", "a_b"]  # one is the name of the input


@pytest.mark.parametrize(
    ("function", "examples", "shapes", "said", "unsaid"),
    [
        (lambda x: x * 2, torch.ones(1, 3), {0: BATCH}, "give an example of at least 2 for batch", "control flow"),
        (lambda x: x.view(2, 3), torch.ones(2, 3), {0: BATCH}, "leave the dimension fixed", "control flow"),
        (
            lambda x: x @ x,
            torch.ones(2, 3),
            None,
            r"fails on its example inputs by itself.*test_trace.py",
            "control flow",
        ),
        (lambda x: x if x.sum() > 0 else -x, torch.ones(2), None, "control flow", "by itself"),
    ],
)
def test_advice_is_about_the_error(
    function: Callable[..., Any], examples: Tensor, shapes: Any, said: str, unsaid: str
) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        trace(Apply(function), examples, dynamic_shapes=None if shapes is None else ((shapes,),))
    assert unsaid not in str(raised.value)


def test_inputs_that_a_module_does_not_take_are_told_with_those_that_it_takes() -> None:
    with pytest.raises(ModelError, match=r"forward of Block takes \(x\), .* inputs, image: missing"):
        trace(Block(), {"image": torch.ones(2, 4)})


def test_one_graph_serves_every_batch_and_sequence(agrees: Agrees) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(64, 8))
            self.qkv = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            batch, length, width = x.shape
            x = x + self.positions[:length] + torch.arange(length)[:, None]
            q, k, v = self.qkv(x).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind()
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return y.transpose(1, 2).reshape(batch, length, width).mean(1) / length

    module = Attention()
    graph = trace(module, (torch.randn(2, 5, 8),), dynamic_shapes=({0: BATCH, 1: Dim("length", max=64)},))
    for shape in ((2, 5, 8), (1, 1, 8), (3, 40, 8), (1, 64, 8)):
        agrees(graph, module, (torch.randn(shape),))


def test_what_a_mask_selects_may_be_nothing(agrees: Agrees) -> None:
    def scale(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return x.masked_scatter(mask[:, None], x[mask] * 2), x[mask].sum(0)

    module = Apply(scale)
    x = torch.randn(3, 2)
    graph = trace(module, (x, torch.tensor([True, False, True])))
    for mask in ([True, False, True], [False] * 3, [True] * 3):
        agrees(graph, module, (x, torch.tensor(mask)))


# -- weights


def test_weights_keep_their_names_and_share_the_modules_memory() -> None:
    module = Network()
    graph = trace(module, (torch.ones(2, 4),))
    weight = graph.constants["blocks.0.fc.weight"]
    assert {f"blocks.{index}.fc.{part}" for index in (0, 1) for part in ("weight", "bias")} < set(graph.constants)
    assert np.shares_memory(weight.data, module.blocks[0].fc.weight.detach().numpy())


def test_tied_weights_are_one_constant() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embed.weight
            self.other = nn.Linear(4, 9, bias=False)

        def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
            x = self.embed(ids)
            return self.head(x), self.other(x)

    graph = trace(Tied(), (torch.zeros(2, 3, dtype=torch.int64),))
    matrices = [constant for constant in graph.constants.values() if constant.shape == (9, 4)]
    assert [len(matrix.uses) for matrix in matrices] == [2, 1]


def test_parts_of_one_tensor_are_constants_of_their_own() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(6.0)
            self.register_buffer("front", whole[:3])
            self.register_buffer("back", whole[3:])
            self.register_buffer("even", whole[::2])
            self.register_buffer("none", torch.zeros(0))
            self.register_buffer("nothing", torch.zeros(0))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return x + self.front, x + self.back, x + self.even, self.none + 1, self.nothing + 2

    outputs = Interpreter(trace(Parts(), (torch.zeros(3),))).run({"x": np.zeros(3, np.float32)})
    assert [array.tolist() for array in outputs.values()] == [[0, 1, 2], [3, 4, 5], [0, 2, 4], [], []]


def test_nan_in_a_weight_is_refused() -> None:
    module = Network()
    nn.init.constant_(module.blocks[1].fc.bias, float("nan"))
    with pytest.raises(ModelError, match=r"weight 'blocks.1.fc.bias' of blocks.1.fc at .* holds NaN"):
        trace(module, (torch.ones(2, 4),))


# -- training


def test_a_module_is_traced_in_evaluation_and_left_as_it_was(agrees: Agrees) -> None:
    module = Network().train()
    module.blocks[1].eval()
    before = [part.training for part in module.modules()]
    graph = trace(module, (torch.ones(2, 4),))
    assert [part.training for part in module.modules()] == before
    agrees(graph, module.eval(), (torch.randn(2, 4),))


def test_a_module_that_can_not_be_traced_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Dropout(), Apply(lambda x: x if x.sum() > 0 else -x))
    module[0].eval()
    with pytest.raises(ModelError):
        trace(module, (torch.ones(2),))
    assert [part.training for part in module.modules()] == [True, False, True]


# -- places


def test_nodes_know_the_module_and_the_line_that_they_came_from() -> None:
    graph = trace(Network(), (torch.ones(2, 4),))
    places = {node.operator: node.location for node in graph.nodes}
    lines, first = inspect.getsourcelines(Block.forward)
    line = first + next(index for index, text in enumerate(lines) if "torch.sin" in text)
    assert places["Sin"].module == "blocks.1"
    assert places["Sin"].source == f"test_trace.py:{line}"
    assert places["Gemm"].module == "blocks.1.fc"
    assert places["Mul"].module == ""
    assert [node.location.module for node in graph.nodes if node.operator == "Gemm"] == ["blocks.0.fc", "blocks.1.fc"]


# -- refusals


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.poisson(x)


def test_an_operator_without_counterpart_is_named_with_its_module() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Noise())
    with pytest.raises(ModelError, match=r"^1 at test_trace.py:\d+: aten.poisson.default has no counterpart among"):
        trace(module, (torch.ones(2, 4),))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, *inputs: Tensor) -> Tensor:
        self.steps += 1
        return inputs[0] + self.steps


def test_a_buffer_that_is_set_to_itself_is_no_state(agrees: Agrees) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(3))

        def forward(self, *inputs: Tensor) -> Tensor:
            self.table = self.table.to(inputs[0].device)
            return inputs[0] + self.table

    module = Moved()
    agrees(trace(module, (torch.ones(3),)), module, (torch.randn(3),))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "a branch on data": (Apply(lambda x: x if x.sum() > 0 else -x), "refuses Apply: .*data-dependent"),
    "a size from data": (Apply(lambda x: x[:, : int(x.argmax())]), "refuses Apply: .*data-dependent"),
    "a broken module": (
        Apply(lambda x: x @ torch.ones(7, 7)),
        "Apply fails on its example inputs by itself: .*cannot be mul",
    ),
    "a state": (Counter(), "the model changes 'steps' while it runs"),
    "a changed input": (Apply(lambda x: x.add_(1)), "the model changes 'inputs_0' while it runs"),
    "a size": (Apply(lambda x: (5, x.shape[0])), "the model returns no tensor"),
    "a root of a size": (Apply(lambda x: x * x.shape[0] ** -0.5), "arithmetic on a symbolic size beyond whole numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_can_not_express_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    module, reason = REFUSED[name]
    with pytest.raises(ModelError, match=f"(?s){reason}"):
        trace(module, (torch.randn(4, 4),), dynamic_shapes=(({0: BATCH},),))
    assert capfd.readouterr() == ("", ""), "torch dumps what it made so far"


def test_a_refusal_says_what_range_a_size_may_have() -> None:
    module = Apply(lambda x: x + torch.ones(64, 1)[: x.shape[0]])
    with pytest.raises(ModelError, match=r"(?s)Suggested fixes:.*batch = Dim\('batch', max=64\)"):
        trace(module, (torch.ones(4, 4),), dynamic_shapes=(({0: BATCH},),))


# -- archives


def test_an_archive_gives_the_graph_that_its_module_gives(tmp_path: Path) -> None:
    module = Network().eval()
    dynamic = ({0: BATCH},)
    path = tmp_path / "network.pt2"
    torch.export.save(torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=dynamic), path)
    graph = read_pt2(path)
    verify(graph)
    assert (graph.name, graph.inputs[0].shape) == ("network", ("x_0", 4))
    traced = trace(module, (torch.ones(2, 4),), dynamic_shapes=({0: Dim("x_0")},))
    assert differences(graph, traced) == ["graph: network against Network"]
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        Interpreter(graph).run({"x": x})["output"], Interpreter(traced).run({"x": x})["output"]
    )


@pytest.mark.parametrize("content", [None, b"", b"not an archive", "truncated"])
def test_a_broken_archive_is_refused_by_name(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "broken.pt2"
    if content == "truncated":
        torch.export.save(torch.export.export(Network().eval(), (torch.ones(2, 4),)), path)
        path.write_bytes(path.read_bytes()[:-500])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken.pt2 is not a torch.export archive that can be read: "):
        read_pt2(path)
