"""The graph under edits: links, uses and names stay true to each other whatever a pass does."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from planish.ir.equal import differences
from planish.ir.graph import Constant, Graph, Location, Node, Use, Value
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify

TYPE = TensorType(DType.float32, (2,))


def chain(length: int) -> Graph:
    """A graph from x through n0, n1, ... to y."""
    graph = Graph()
    value = graph.add_input("x", TYPE)
    for index in range(length):
        value = graph.add_node("test::F", [value], [TYPE], names=[f"n{index}"]).output
    graph.outputs["y"] = value
    return graph


def names(graph: Graph) -> list[str]:
    return [node.output.name for node in graph.nodes]


def test_a_number_of_numpy_is_a_constant_without_axes() -> None:
    constant = Graph().add_constant(np.array(3, np.float32) / 2)
    assert isinstance(constant.data, np.ndarray)
    assert (constant.type, constant.data.item()) == (TensorType(DType.float32, ()), 1.5)


def bypass(graph: Graph, node: Node) -> None:
    source = node.operand(0)
    graph.replace_uses(node.output, source)
    graph.erase(node)


# -- reading


def test_a_location_reads_as_the_users_layer() -> None:
    assert str(Location("layer.0", "a.py:3")) == "layer.0 at a.py:3"
    assert str(Location("", "a.py:3")) == "a.py:3"
    assert str(Location()) == "an unnamed place"


def test_a_node_gives_its_inputs_and_its_only_output() -> None:
    graph = Graph()
    x, w = graph.add_input("x", TYPE), graph.add_constant(np.ones(2, np.float32), "w")
    node = graph.add_node("com.microsoft::F", [x, None, w], [TYPE, TYPE])
    assert node.domain == "com.microsoft"
    assert (node.input(0), node.input(1), node.input(2), node.input(3)) == (x, None, w, None)
    assert (node.constant(0), node.constant(1)) == (None, None)
    assert node.constant(2) is w.data
    assert repr(node) == "com.microsoft::F(%x, none, %w)"
    with pytest.raises(ValueError, match=r"F\(%x, none, %w\) has 2 outputs"):
        _ = node.output


def test_values_come_as_inputs_constants_and_outputs_in_order() -> None:
    graph = chain(3)
    graph.add_constant(np.ones(2), "w")
    assert [value.name for value in graph.values()] == ["x", "w", "n0", "n1", "n2"]
    assert [node.output.name for node in graph.nodes_backwards] == ["n2", "n1", "n0"]
    assert [(value.index, value.producer) for value in graph.inputs] == [(0, None)]


# -- editing while iterating


def test_every_node_may_be_erased_while_iterating() -> None:
    graph = chain(5)
    for node in graph.nodes:
        bypass(graph, node)
    assert (names(graph), len(graph)) == ([], 0)
    assert graph.outputs["y"] is graph.inputs[0]
    verify(graph)


def test_every_node_may_be_erased_while_iterating_backwards() -> None:
    graph = chain(5)
    seen = [node.output.name for node in graph.nodes_backwards if bypass(graph, node) is None]
    assert seen == ["n4", "n3", "n2", "n1", "n0"]
    assert len(graph) == 0


def test_nodes_that_are_erased_ahead_are_not_visited() -> None:
    graph = chain(5)
    seen: list[str] = []
    for node in graph.nodes:
        seen.append(node.output.name)
        following = [use.node for use in node.output.uses]
        for ahead in following:
            bypass(graph, ahead)
    assert seen == names(graph) == ["n0", "n2", "n4"]
    verify(graph)


def test_an_iteration_that_stands_on_an_erased_run_finds_its_way_on() -> None:
    graph = chain(5)
    seen: list[str] = []
    for node in graph.nodes:
        seen.append(node.output.name)
        if node.output.name == "n1":
            for doomed in list(graph.nodes)[1:4]:
                bypass(graph, doomed)
    assert seen == ["n0", "n1", "n4"]


def test_nodes_inserted_before_are_not_visited_and_those_after_are() -> None:
    graph = chain(2)
    seen: list[str] = []
    for node in graph.nodes:
        seen.append(node.output.name)
        if node.output.name == "n0":
            graph.add_node("test::G", [graph.inputs[0]], [TYPE], names=["before"], before=node)
            graph.add_node("test::G", [node.output], [TYPE], names=["after"])
    assert seen == ["n0", "n1", "after"]
    assert names(graph) == ["before", "n0", "n1", "after"]
    verify(graph)


def test_positions_ascend_however_many_nodes_are_inserted_at_one_place() -> None:
    graph = chain(3)
    _, second, third = graph.nodes
    for count in range(200):
        graph.add_node("test::F", [graph.inputs[0]], [TYPE], before=second if count % 2 else third)
        if count % 50 == 0:
            assert graph.position(second) < graph.position(third)
    graph.add_node("test::F", [graph.inputs[0]], [TYPE], before=next(graph.nodes))
    positions = [graph.position(node) for node in graph.nodes]
    assert positions == sorted(set(positions))
    assert all(node.owner is graph for node in graph.nodes)


def test_a_replacement_in_place_of_the_visited_node() -> None:
    graph = chain(3)
    for node in graph.nodes:
        if node.operator == "test::G":
            continue
        twin = graph.add_node("test::G", node.inputs, [TYPE], before=node)
        graph.replace_uses(node.output, twin.output)
        graph.erase(node)
    assert [node.operator for node in graph.nodes] == ["test::G"] * 3
    verify(graph)


# -- uses


def test_a_value_read_twice_by_a_node_has_two_uses() -> None:
    graph = Graph()
    x, z = graph.add_input("x", TYPE), graph.add_input("z", TYPE)
    node = graph.add_node("test::F", [x, x], [TYPE])
    assert x.uses == (Use(node, 0), Use(node, 1))
    assert (x.use_count, z.use_count) == (2, 0)
    graph.replace_uses(x, z)
    assert (x.uses, z.uses) == ((), (Use(node, 0), Use(node, 1)))
    assert node.inputs == (z, z)


def test_setting_an_input_beyond_the_last_fills_the_gap_and_none_at_the_end_is_dropped() -> None:
    graph = Graph()
    x = graph.add_input("x", TYPE)
    node = graph.add_node("test::F", [x], [TYPE])
    graph.set_input(node, 2, x)
    assert node.inputs == (x, None, x)
    graph.set_input(node, 2, None)
    assert (node.inputs, x.uses) == ((x,), (Use(node, 0),))
    graph.set_input(node, 0, None)
    assert (node.inputs, x.uses) == ((), ())


def test_replacing_uses_reaches_everything_the_graph_returns() -> None:
    graph = chain(1)
    value = graph.outputs["y"]
    graph.outputs["again"] = value
    graph.replace_uses(value, graph.inputs[0])
    assert graph.outputs == {"y": graph.inputs[0], "again": graph.inputs[0]}
    assert graph.is_output(graph.inputs[0])
    assert not graph.is_output(value)


def test_what_is_used_is_not_erased() -> None:
    graph = chain(2)
    first, last = graph.nodes
    w = graph.add_constant(np.ones(2, np.float32), "w")
    graph.set_input(last, 1, w)
    for doomed in (first, last):
        with pytest.raises(ValueError, match=f"%{doomed.output.name} of .* is still used"):
            graph.erase(doomed)
    with pytest.raises(ValueError, match="%w is still used"):
        graph.erase_constant(w)
    graph.set_input(last, 1, None)
    graph.erase_constant(w)
    assert (len(graph), graph.constants) == (2, {})


# -- names


def test_a_taken_name_is_numbered() -> None:
    graph = Graph()
    graph.add_input("x", TYPE)
    made = [graph.add_constant(np.ones(1), "x").name for _ in range(3)]
    node = graph.add_node("com.microsoft::Gelu", [], [TYPE, TYPE], names=["x_2"])
    assert made == ["x_1", "x_2", "x_3"]
    assert [output.name for output in node.outputs] == ["x_2_1", "gelu"]
    with pytest.raises(ValueError, match="already has a value %x"):
        graph.add_input("x", TYPE)


def test_a_name_is_free_again_once_its_value_is_erased() -> None:
    graph = chain(2)
    bypass(graph, next(graph.nodes))
    graph.erase_constant(graph.add_constant(np.ones(1), "w"))
    assert graph.add_constant(np.ones(1), "n0").name == "n0"
    assert graph.add_constant(np.ones(1), "w").name == "w"


def test_a_renamed_constant_keeps_its_place() -> None:
    graph = Graph()
    first, second = (graph.add_constant(np.ones(1), name) for name in ("a", "b"))
    graph.rename(first, "b")
    assert list(graph.constants.items()) == [("b_1", first), ("b", second)]
    graph.rename(first, "b_1")
    assert graph.add_constant(np.ones(1), "a").name == "a"
    verify(graph)


class CountingSet(set[str]):
    """Names that count how often one is looked up."""

    lookups = 0

    def __contains__(self, name: object) -> bool:
        self.lookups += 1
        return super().__contains__(name)


def test_ten_thousand_values_of_one_wished_name_cost_a_few_lookups_each() -> None:
    graph = Graph()
    graph._names = CountingSet()
    x = graph.add_input("x", TYPE)
    for _ in range(10_000):
        x = graph.add_node("Relu", [x], [TYPE]).output
    assert len({node.output.name for node in graph.nodes}) == 10_000
    assert graph._names.lookups < 5 * 10_000


# -- cloning


def test_a_clone_shares_arrays_and_nothing_else() -> None:
    graph = chain(3)
    inner = Graph("inner", graph)
    inner.outputs["y"] = inner.add_node("Relu", [graph.inputs[0]], [TYPE], names=["inner"]).output
    w = graph.add_constant(np.ones(2, np.float32), "w")
    graph.add_node("test::If", [w], [TYPE], {"then_branch": inner, "axis": 1}, location=Location("head", "a.py:1"))
    twin = graph.clone()
    assert differences(graph, twin) == []
    assert twin.constants["w"].data is w.data
    assert not {*map(id, graph.values())} & {*map(id, twin.values())}

    *_, branch = twin.nodes
    assert branch.location == Location("head", "a.py:1")
    assert branch.attributes["then_branch"] is not inner
    before = names(graph)
    branch.attributes = {**branch.attributes, "axis": 2}
    bypass(twin, next(twin.nodes))
    assert branch.captured == (twin.inputs[0],)
    twin.erase(branch)
    assert len(twin.inputs[0].uses) == 1
    twin.add_constant(np.ones(1), "new")
    twin.outputs.clear()
    assert (names(graph), len(inner), list(graph.constants)) == (before, 1, ["w"])
    assert graph.outputs["y"].name == "n2"
    assert next(reversed(list(graph.nodes))).attributes["axis"] == 1
    verify(graph)
    verify(twin)


@settings(max_examples=50)
@given(st.data())
def test_any_graph_is_equal_to_its_clone(graphs: SearchStrategy[Graph], data: DataObject) -> None:
    graph = data.draw(graphs)
    twin = graph.clone()
    verify(twin)
    assert differences(graph, twin) == []
    assert [value.name for value in twin.values()] == [value.name for value in graph.values()]


# -- anything goes


def _place(graph: Graph, value: Value) -> int:
    """How many nodes stand before a value is known."""
    return list(graph.nodes).index(value.producer) + 1 if value.producer else 0


class Editor:
    """Legal edits of a graph, drawn at random."""

    def __init__(self, graph: Graph, data: DataObject) -> None:
        self.graph = graph
        self.draw = data.draw

    def earlier(self, place: int) -> st.SearchStrategy[Value]:
        return st.sampled_from([value for value in self.graph.values() if _place(self.graph, value) <= place])

    def node(self) -> Node | None:
        nodes = list(self.graph.nodes)
        return self.draw(st.sampled_from(nodes)) if nodes else None

    def insert(self) -> None:
        nodes = list(self.graph.nodes)
        place = self.draw(st.integers(0, len(nodes)))
        inputs = self.draw(st.lists(self.earlier(place) | st.none(), max_size=3))
        outputs = self.draw(st.integers(1, 2))
        before = nodes[place] if place < len(nodes) else None
        self.graph.add_node("test::F", inputs, [TYPE] * outputs, before=before)

    def set_input(self) -> None:
        node = self.node()
        if node is not None:
            value = self.draw(self.earlier(list(self.graph.nodes).index(node)) | st.none())
            self.graph.set_input(node, self.draw(st.integers(0, 3)), value)

    def replace(self) -> None:
        old = self.draw(st.sampled_from(list(self.graph.values())))
        self.graph.replace_uses(old, self.draw(self.earlier(_place(self.graph, old))))

    def erase(self) -> None:
        node = self.node()
        used = node is None or any(output.uses or self.graph.is_output(output) for output in node.outputs)
        if node is not None and not used:
            self.graph.erase(node)

    def erase_constant(self) -> None:
        idle = [c for c in self.graph.constants.values() if not c.uses and not self.graph.is_output(c)]
        if idle:
            self.graph.erase_constant(self.draw(st.sampled_from(idle)))

    def rename(self) -> None:
        value = self.draw(st.sampled_from(list(self.graph.values())))
        self.graph.rename(value, self.draw(st.sampled_from(["x", "f", "f_1", "w", "fresh"])))

    def returned(self) -> None:
        self.graph.outputs[self.draw(st.sampled_from("yz"))] = self.draw(st.sampled_from(list(self.graph.values())))


EDITS = (
    Editor.insert,
    Editor.set_input,
    Editor.replace,
    Editor.erase,
    Editor.erase_constant,
    Editor.rename,
    Editor.returned,
)


@given(st.data(), st.lists(st.sampled_from(EDITS), max_size=30))
def test_any_edits_leave_a_well_formed_graph(data: DataObject, edits: list[Callable[[Editor], None]]) -> None:
    graph = Graph()
    graph.add_input("x", TYPE)
    graph.add_constant(np.ones(2, np.float32), "w")
    editor = Editor(graph, data)
    for edit in edits:
        edit(editor)
        verify(graph)
    assert len(graph) == len(list(graph.nodes)) == len(list(graph.nodes_backwards))
    assert list(graph.nodes)[::-1] == list(graph.nodes_backwards)
    taken = [value.name for value in graph.values()]
    assert graph._names == set(taken)
    assert all(isinstance(constant, Constant) for constant in graph.constants.values())
    assert differences(graph, graph.clone()) == []
