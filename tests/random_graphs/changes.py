"""Random changes that keep a graph valid: nearly the same, nearly matched, computed twice, or known too early."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Constant, Graph, Node, Use, Value, nested_nodes
from planish.ir.infer import infer

from .sketch import Sketch, copy_node

Change = Callable[[Sketch, Random], object]
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def _nodes(sketch: Sketch) -> list[Node]:
    return list(nested_nodes(sketch.graph))


def _uses(sketch: Sketch) -> list[Use]:
    """Where nodes read values, those inside of others among them."""
    return [Use(node, index) for node in _nodes(sketch) for index, value in enumerate(node.inputs) if value is not None]


@change
def duplicate(sketch: Sketch, random: Random) -> None:
    """Compute a node twice, and read either copy."""
    node = random.choice(_nodes(sketch))
    graph = node.owner
    copy = copy_node(graph, node, {}, before=node)
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        for use in old.uses:
            if random.random() < 0.5:
                use.node.owner.set_input(use.node, use.index, new)


@change
def identity(sketch: Sketch, random: Random) -> None:
    """Put something that does nothing, or nearly so, between a value and one that reads it."""
    node, index = random.choice(_uses(sketch))
    value, graph = node.inputs[index], node.owner
    op = Builder(graph, before=node)
    new = random.choice([op.Identity, op.Identity, op.Dropout, op.Sum, lambda x: op.Add(x, 0), lambda x: op.Mul(1, x)])(
        value
    )
    graph.set_input(node, index, new)


@change
def data(sketch: Sketch, random: Random) -> None:
    """Another constant: a single element or all of them, a bit more or less, of another rank."""
    constants = [use for use in _uses(sketch) if isinstance(use.node.inputs[use.index], Constant)]
    node, index = random.choice(constants)
    array = node.constant(index)
    assert array is not None
    if array.dtype == object:
        return
    array = array.copy()
    where = random.randrange(array.size) if random.random() < 0.5 else slice(None)
    match random.randrange(5):
        case 0:
            array.reshape(-1)[where] += 1
        case 1:
            array.reshape(-1)[where] *= random.choice([0, -1, 2])
        case 2:
            array = array.reshape(1, *array.shape)
        case 3:
            array = array.reshape(-1)[:1]
        case _:
            array.reshape(-1)[where] = 1
    node.owner.set_input(node, index, node.owner.add_constant(array))


@change
def attribute(sketch: Sketch, random: Random) -> None:
    """Another attribute: one more or less, in another order, or none."""
    node = random.choice([node for node in _nodes(sketch) if node.attributes])
    name = random.choice(sorted(node.attributes))
    held = node.attributes[name]
    others = {key: value for key, value in node.attributes.items() if key != name}
    if isinstance(held, Graph) or random.random() < 0.2:
        node.attributes = node.attributes if isinstance(held, Graph) else others
    else:
        node.attributes = others | {name: _moved(held, random)}


def _moved(held: Any, random: Random) -> Any:
    match held:
        case 0 | 1:
            return 1 - held  # may well be a truth value
        case int():
            return held + random.choice([-1, 1])
        case float():
            return random.choice([0.0, 1.0, held * 2, -held])
        case tuple() if held and random.random() < 0.5:
            return tuple(random.sample(held, len(held)))
        case tuple() if held:
            place = random.randrange(len(held))
            return (*held[:place], _moved(held[place], random), *held[place + 1 :])
        case _:
            return held


@change
def swap(sketch: Sketch, random: Random) -> None:
    """Two operands in the other order."""
    node = random.choice([node for node in _nodes(sketch) if len(node.inputs) > 1])
    first, second = random.sample(range(len(node.inputs)), 2)
    values = node.inputs
    node.owner.set_input(node, first, values[second])
    node.owner.set_input(node, second, values[first])


@change
def redirect(sketch: Sketch, random: Random) -> None:
    """Read another value of the same type, from before."""
    node, index = random.choice(_uses(sketch))
    old = node.inputs[index]
    assert old is not None
    before: list[Value] = [*sketch.graph.inputs]
    for other in sketch.graph.nodes:
        if other is node or node in _inside(other):
            break
        before += other.outputs
    others = [value for value in before if value.type == old.type and value is not old]
    if others:
        node.owner.set_input(node, index, random.choice(others))


def _inside(node: Node) -> list[Node]:
    return [inner for graph in node.graphs for inner in nested_nodes(graph)]


@change
def nest(sketch: Sketch, random: Random) -> None:
    """Compute something in the branches of an If."""
    node = random.choice([node for node in sketch.graph.nodes if not node.graphs])
    condition = sketch.add(np.array(random.random() < 0.5), "condition")
    branches: dict[str, Graph] = {}
    for name in ("then_branch", "else_branch"):
        branch = branches[name] = Graph(name, sketch.graph)
        constants = [value for value in node.inputs if isinstance(value, Constant) and random.random() < 0.5]
        copies = {value: branch.add_constant(value.data, value.name) for value in constants}
        copy = copy_node(branch, node, dict[Value, Value](copies))
        branch.outputs = {value.name: value for value in copy.outputs}
    types = [output.type for output in node.outputs]
    chosen = sketch.graph.add_node("If", [condition], types, branches, before=node)
    for old, new in zip(node.outputs, chosen.outputs, strict=True):
        sketch.graph.replace_uses(old, new)
    sketch.graph.erase(node)


@change
def outputs(sketch: Sketch, random: Random) -> None:
    """One more result of a node, or one less."""
    node = random.choice(_nodes(sketch))
    graph, count = node.owner, len(node.outputs) + random.choice([-1, 1])
    types = infer(node.operator, node.inputs, node.attributes, count)
    other = graph.add_node(node.operator, node.inputs, types, node.attributes, location=node.location, before=node)
    for old, new in zip(node.outputs, other.outputs, strict=False):
        graph.replace_uses(old, new)
    graph.erase(node)


@change
def special(sketch: Sketch, random: Random) -> None:
    """Numbers among the inputs with which arithmetic has its own rules."""
    values = [value for value in sketch.graph.inputs if value.dtype.is_float and value in sketch.data]
    value = random.choice(values)
    array = sketch.feeds[value.name].copy()
    array.reshape(-1)[random.randrange(array.size)] = random.choice([math.nan, math.inf, -math.inf, -0.0, 0.0, 1e-40])
    sketch.feeds[value.name] = array


@change
def read(sketch: Sketch, random: Random) -> None:
    """One more that reads a value, perhaps only its shape."""
    value = random.choice([value for node in sketch.graph.nodes for value in node.outputs])
    if not value.type.container.value:
        sketch.op(random.choice(["Identity", "Shape", "Size"]), value)


@change
def known(sketch: Sketch, random: Random) -> None:
    """An input becomes a constant, or all of them do."""
    values = [value for value in sketch.graph.inputs if value in sketch.data]
    for value in values if random.random() < 0.2 else [random.choice(values)]:
        sketch.graph.replace_uses(value, sketch.graph.add_constant(sketch.feeds[value.name], value.name))


@change
def unknown(sketch: Sketch, random: Random) -> None:
    """A constant becomes an input, for all that read it or one."""
    constants = [value for value in sketch.graph.constants.values() if value.uses]
    constant = random.choice(constants)
    value = sketch.add(constant.data, constant.name)
    if random.random() < 0.5:
        use = random.choice(constant.uses)
        use.node.owner.set_input(use.node, use.index, value)
    else:
        sketch.graph.replace_uses(constant, value)


@change
def share(sketch: Sketch, random: Random) -> None:
    """A constant of the same content becomes the same, or a copy."""
    constants = [value for value in sketch.graph.constants.values() if value.uses]
    constant = random.choice(constants)
    use = random.choice(constant.uses)
    use.node.owner.set_input(use.node, use.index, sketch.graph.add_constant(constant.data.copy(), "copy"))
