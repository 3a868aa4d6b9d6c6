"""Random valid graphs over all operators: the standard's cases joined together, idioms of passes, and changes of these.

A graph is made from a recipe, a few words with a seed each, and recipes are drawn by number. One that fails shrinks by
leaving words out. (Hypothesis would draw and shrink them too, but repeats itself by design: of the operators, its
hundred graphs held half as many.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from planish.ir.graph import Graph, Value
from planish.ir.numerics import Outputs
from planish.ir.text import print_graph
from planish.passes.probes import run_graph

from .cases import fragment, names_by_kind
from .changes import CHANGES
from .idioms import IDIOMS
from .sketch import Sketch, resized, with_symbol

Word = tuple[str, int]
"""The name of a kind of cases, of an idiom or of a change, and a seed."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a graph is made from.

    Attributes:
        steps: kinds of cases and idioms, each of which appends to the graph what it can.
        changes: the changes of the graph after the steps.
        seed: the seed for what is given and returned, and for sizes that are symbolic.
    """

    steps: tuple[Word, ...]
    changes: tuple[Word, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """A graph with inputs on which it runs, and its outputs on them.

    Attributes:
        recipe: the recipe that the graph was made from.
        graph: the graph, which nobody edits.
        probes: the inputs.
        outputs: the interpreter's outputs, for each probe.
    """

    recipe: Recipe
    graph: Graph = field(repr=False)
    probes: list[Mapping[str, Any]] = field(repr=False)
    outputs: list[Outputs] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.recipe}\n{print_graph(self.graph)}"


def recipe(number: int, cases: float = 0.5) -> Recipe:
    """The recipe of a number, always the same; `cases` is the share of the standard's cases among its steps."""
    random = Random(number)
    idioms = [*sorted(IDIOMS), *3 * ["rule"], *2 * ["convolution"]]  # which have many forms

    def words(names: Callable[[], list[str]], least: int, most: int) -> tuple[Word, ...]:
        count = random.randint(least, most)
        return tuple((random.choice(names()), random.randrange(1 << 20)) for _ in range(count))

    steps = words(lambda: sorted(names_by_kind()) if random.random() < cases else idioms, 1, 7)
    return Recipe(steps, words(lambda: sorted(CHANGES), 0, 6), random.randrange(1 << 20))


def smallest(start: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """A recipe that fails, and of which no word can be left out."""
    current, is_smaller = start, True
    while is_smaller:
        is_smaller = False
        for part in ("changes", "steps"):
            words = getattr(current, part)
            for index in reversed(range(len(words))):
                other = replace(current, **{part: words[:index] + words[index + 1 :]})
                if other.steps and fails(other):
                    current, is_smaller = other, True
                    break
    return current


def sample(made_of: Recipe) -> Sample:
    """The graph of a recipe."""
    random = Random(made_of.seed)
    sketch = Sketch(random)
    for name, number in made_of.steps:
        sketch = _tried(sketch, partial(_step, name), Random(number))
    if not len(sketch.graph):
        sketch = _tried(sketch, IDIOMS["transpose"], random)
    for name, number in made_of.changes:
        sketch = _tried(sketch, CHANGES[name], Random(number))
    graph, feeds = sketch.graph, sketch.feeds
    _return_some(graph, random)
    graph, probes = _with_sizes(graph, feeds, random) or (graph, [feeds])
    return Sample(made_of, graph, probes, run_graph(graph, probes, held_to_types=True))


def _step(name: str, sketch: Sketch, random: Random) -> None:
    if name in IDIOMS:
        IDIOMS[name](sketch, random)
    elif part := fragment(random.choice(names_by_kind()[name])):
        sketch.insert(part)


def _tried(sketch: Sketch, step: Callable[[Sketch, Random], object], random: Random) -> Sketch:
    """The sketch after a step, or as it was where the step makes no sense with the values that are there."""
    before, feeds = sketch.graph.clone(), dict(sketch.feeds)
    try:
        step(sketch, random)
        sketch.settle()
    except Exception:  # of whatever kind
        return Sketch(sketch.random, before, feeds)
    return sketch


def _return_some(graph: Graph, random: Random) -> None:
    """Return most of what nobody reads, so that most of the graph is alive, and some of the rest."""
    made = [value for node in graph.nodes for value in node.outputs if not value.name.startswith("dead")]
    made = made or [value for node in graph.nodes for value in node.outputs]
    share = random.choice([0.0, 0.0, 0.1])  # of what is read too, which keeps rules from matching
    returned = [value for value in made if random.random() < (share if value.uses else 0.8)]
    for index, value in enumerate(returned or made[-1:]):
        graph.outputs[f"y{index}"] = value
    if random.random() < 0.2:
        others: list[Value] = random.choice([graph.inputs, list(graph.constants.values())])
        graph.outputs |= {value.name: value for value in others[:1]}


def _with_sizes(graph: Graph, feeds: Mapping[str, Any], random: Random) -> tuple[Graph, list[Mapping[str, Any]]] | None:
    """The graph with a symbolic size, and inputs of two sizes if it takes them; None where it can't have one."""
    sizes = sorted({dim for value in graph.inputs for dim in value.type.dims or () if isinstance(dim, int) and dim > 1})
    if not sizes or random.random() < 0.5:
        return None
    size = random.choice(sizes)
    free = with_symbol(graph, size)
    if free is None:
        return None
    probes: list[Mapping[str, Any]] = [feeds]
    try:
        run_graph(free, [feeds], held_to_types=True)
    except Exception:
        return None
    other = resized(free, feeds, size + 1)
    try:
        run_graph(free, [other], held_to_types=True)
    except Exception:
        return free, probes
    return free, [feeds, other]
